"""Comparisons in words: as many digits as a number bears, and no claim that the numbers do not carry."""

from __future__ import annotations

import pytest

from stic_core.config import PolicyConfig
from stic_core.evaluation import favours, listed, multiplicity, p_text, paired_sentence, points
from stic_core.evaluation.figures import PairedAccuracy, paired_accuracy
from stic_core.evaluation.readers.release import figures_of, release
from stic_core.evaluation.readers.study import Condition, evaluate_readers
from stic_core.evaluation.readers.wording import helped_sentences


def pair(b: int, c: int, n: int) -> PairedAccuracy:
    """A comparison, computed from its counts."""
    found = paired_accuracy(b=b, c=c, n=n)
    assert isinstance(found, PairedAccuracy)
    return found


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "p = 1.00"),
        (0.2671, "p = 0.27"),
        (0.0996, "p = 0.100"),
        (0.0161569, "p = 0.016"),
        (0.00099, "p < 0.001"),
        (0.0, "p < 0.001"),
    ],
)
def test_p_values(p: float, text: str) -> None:
    """Never 0, never more digits than three."""
    assert p_text(p) == text


def test_names_and_points() -> None:
    """Lists as one says them, and differences with a sign unless they round to nothing."""
    assert [listed(list("abc"[:n])) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert [points(x) for x in (0.1567, -0.0004, -0.2)] == ["+15.7", "0.0", "-20.0"]


def test_a_settled_comparison_names_who_is_ahead() -> None:
    """17 to 2 of 58 patients (a golden pair of the specification), read from either side."""
    text = paired_sentence("A", "B", pair(17, 2, 58), n=58)
    assert (
        "A was right on 17 that B got wrong, and B on 2 that A got wrong (exact McNemar test, p < 0.001)"
        in text
    )
    assert "+25.9 percentage points, 95 % interval +11.0 to +40.7" in text
    assert text.endswith("The whole interval is above 0, in favour of A.")
    assert paired_sentence("A", "B", pair(2, 17, 58), n=58).endswith("below 0, in favour of B.")


def test_an_open_comparison_claims_nothing() -> None:
    """9 to 4 of 113 settles nothing, and no discordant patient says just that."""
    assert paired_sentence("A", "B", pair(9, 4, 113), n=113).endswith("which of the two is right more often.")
    same = paired_sentence("A", "B", pair(0, 0, 20), n=20)
    assert same == "On the same 20 patients, A and B were right on the same ones and wrong on the same ones."
    truth = {f"p{i}": "HCC" if i < 10 else "ICC" for i in range(20)}
    readers: dict[str, dict[Condition, dict[str, str]]] = {"r": {"alone": truth, "aided": truth}}
    study = evaluate_readers(readers, model=truth, truth=truth, classes=("HCC", "ICC"))
    facts = {"site": "s", "run_id": "r", "model_digest": "a" * 64, "test_fingerprint": "b" * 64}
    own = release(
        study,
        policy=PolicyConfig(min_cell=1),
        names={"r": "r"},
        classes=("HCC", "ICC"),
        task="t",
        phantom=True,
        **facts,
    )
    (help_less,) = helped_sentences(figures_of(own))
    assert "right and wrong on the same of the 20 patients" in help_less


def test_interval_and_test_that_disagree_claim_nothing() -> None:
    """19 to 8 of 58: p is above .05 while the interval lies above 0, so it stays open, and says why."""
    found = pair(19, 8, 58)
    assert found.p > 0.05
    assert found.ci95[0] > 0
    assert favours(found) == 0
    assert "The interval and the test disagree so close to the bound" in paired_sentence(
        "A", "B", found, n=58
    )


def test_many_tests_are_named() -> None:
    """How many, what to expect by chance, and Bonferroni's bound."""
    assert multiplicity(0) == "No test is shown."
    text = multiplicity(48)
    assert "48 tests" in text
    assert "below 0.001." in text
