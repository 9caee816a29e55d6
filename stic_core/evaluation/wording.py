"""Comparisons in plain words, for readers who are no statisticians; what is not shown is not claimed."""

from __future__ import annotations

from collections.abc import Sequence

from stic_core.evaluation.figures import PairedAccuracy

ONE_TEST = 0.05
"""The level that one single test, chosen beforehand, is often held to."""


def p_text(p: float) -> str:
    """A p value with as many digits as it bears.

    Example:
        >>> p_text(0.2671), p_text(0.01612), p_text(3e-7)
        ('p = 0.27', 'p = 0.016', 'p < 0.001')
    """
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.3f}"


def listed(names: Sequence[str]) -> str:
    """Names as one says them.

    Example:
        >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
        ('a', 'a and b', 'a, b and c')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def auc_titles(classes: Sequence[str]) -> dict[str, str]:
    """The AUCs that tables show, by class; two classes have one between them.

    Example:
        >>> auc_titles(["HCC", "ICC", "META"])
        {'HCC': 'AUC HCC', 'ICC': 'AUC ICC', 'META': 'AUC META'}
        >>> auc_titles(["HCC", "ICC"])
        {'HCC': 'AUC'}
    """
    return {classes[0]: "AUC"} if len(classes) == 2 else {name: f"AUC {name}" for name in classes}


def overall_auc(classes: Sequence[str]) -> str:
    """What `auc_macro` is called: the mean over classes, or the AUC that two classes share.

    Example:
        >>> overall_auc(["HCC", "ICC", "META"]), overall_auc(["HCC", "ICC"])
        ('macro AUC', 'AUC')
    """
    return "AUC" if len(classes) == 2 else "macro AUC"


def points(share: float) -> str:
    """A difference of shares in percentage points, with its sign.

    Example:
        >>> points(0.0442), points(-0.2), points(0.0)
        ('+4.4', '-20.0', '0.0')
    """
    return f"{100 * share:+.1f}" if round(100 * share, 1) else "0.0"


def paired_sentence(first: str, second: str, pair: PairedAccuracy, *, n: int) -> str:
    """What McNemar's table of two judges of the same patients says.

    Args:
        first, second: names that can begin and continue a clause.
        pair: first against second.
        n: how many patients.

    Example:
        >>> pair = PairedAccuracy(0.0442, ci95=(-0.0266, 0.1151), b=9, c=4, p=0.267)
        >>> print(paired_sentence("the model", "reader 1", pair, n=113))
        On the same 113 patients, the model was right on 9 that reader 1 got wrong, and reader 1 on \
4 that the model got wrong (McNemar's test, p = 0.27). Accuracy of the model minus that of reader 1: +4.4 \
percentage points, 95 % interval -2.7 to +11.5. The interval includes 0: these patients do not settle which of \
the two is right more often.
    """
    if pair.b == pair.c == 0:
        return f"On the same {n} patients, {first} and {second} were right on the same ones and wrong on the same ones."
    return (
        f"On the same {n} patients, {first} was right on {pair.b} that {second} got wrong, and {second} on "
        f"{pair.c} that {first} got wrong ({mcnemar_name(pair)}, {p_text(pair.decisive_p)}). "
        f"Accuracy of {first} minus that of {second}: {difference(pair)}. "
        + verdict(pair, open_question="which of the two is right more often", first=first, second=second)
    )


def mcnemar_name(pair: PairedAccuracy) -> str:
    """The test whose p value is told."""
    return "McNemar's test" if pair.p_exact is None else "exact McNemar test"


def difference(pair: PairedAccuracy) -> str:
    """A difference of accuracies with its interval."""
    low, high = pair.ci95
    return f"{points(pair.difference)} percentage points, 95 % interval {points(low)} to {points(high)}"


def favours(pair: PairedAccuracy) -> int:
    """1 where interval and test both speak for the first of two, -1 for the second, else 0.

    The interval and McNemar's test correct for continuity in different ways, so near the bound
    one may say what the other does not; then nothing is claimed.
    """
    low, high = pair.ci95
    if pair.decisive_p >= ONE_TEST or low <= 0 <= high:
        return 0
    return 1 if low > 0 else -1


def verdict(pair: PairedAccuracy, *, open_question: str, first: str, second: str) -> str:
    """What a difference leaves open, or in whose favour it is."""
    low, high = pair.ci95
    side = favours(pair)
    if side:
        where, better = ("above", first) if side > 0 else ("below", second)
        return f"The whole interval is {where} 0, in favour of {better}."
    if (low <= 0 <= high) == (pair.p >= ONE_TEST):
        return f"The interval includes 0: these patients do not settle {open_question}."
    return f"The interval and the test disagree so close to the bound: these patients do not settle {open_question}."


def multiplicity(tests: int) -> str:
    """What so many uncorrected tests mean.

    Example:
        >>> multiplicity(1)
        'One test is shown.'
    """
    if tests < 2:
        return "One test is shown." if tests else "No test is shown."
    return (
        f"{tests} tests are shown, and no p value is corrected for their number. If there were no difference "
        f"anywhere, about one p value in twenty would still fall below {ONE_TEST}. Bonferroni's correction over "
        f"all of them would require a p value below {ONE_TEST / tests:.2g}."
    )
