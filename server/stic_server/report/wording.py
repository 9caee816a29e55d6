"""Numbers, moments and names as the report says them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from stic_core.statistics import Absent, Suppressed


def human_bytes(count: float) -> str:
    """Decimal units, as network equipment counts.

    Example:
        >>> human_bytes(12_908_028)
        '12.9 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """A duration as one would say it.

    Example:
        >>> human_seconds(161.2), human_seconds(2.13), human_seconds(7400)
        ('2 min 41 s', '2.1 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(text: str | None) -> str:
    """An ISO time as one would write it in a letter."""
    if not text:
        return "not yet"
    when = datetime.fromisoformat(text)
    return f"{when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".strip()


def thousands(count: int) -> str:
    """A count with narrow spaces between thousands."""
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def absent(value: object) -> str | None:
    """Why there is no figure, or None where there is one."""
    if not isinstance(value, Absent):
        return None
    by = " by the hospital's policy" if isinstance(value, Suppressed) else ""
    return f"{value.word}{by}: {value.reason}"


def capitalise(text: str) -> str:
    """A name at the beginning of a line; abbreviations in it stay as they are.

    Example:
        >>> capitalise("macro AUC")
        'Macro AUC'
    """
    return text[:1].upper() + text[1:]


TERMS = {
    "HCC": "hepatocellular carcinoma",
    "ICC": "intrahepatic cholangiocarcinoma",
    "META": "liver metastasis",
}
"""What the classes of the paper's tasks stand for."""


def terms(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Abbreviations of a report, each with what it stands for."""
    found = [
        (
            "AUC",
            (
                "area under the receiver operating characteristic (ROC) curve, the chance that the model scores a "
                "patient of a class above one of another class; 0.5 is chance, 1 is perfect"
            ),
        )
    ]
    if len(classes) > 2:
        found.append(("Macro AUC", "the mean of the AUCs of all classes"))
    found.append(("95 % interval", "values that agree with these patients; few patients make it wide"))
    return found + [(name, TERMS[name]) for name in classes if name in TERMS]


def tied(text: str) -> str:
    """Words that belong together, such as `p = 0.27`, stay on one line."""
    for words in ("p = ", "p < ", "95 % "):
        text = text.replace(words, words.replace(" ", "\N{NO-BREAK SPACE}"))
    return text


def title_of(model: str) -> str:
    """A model of `Evaluation.models` as a heading.

    Example:
        >>> title_of("center1 alone")
        "center1's own model"
    """
    named = {
        "federated": "Federated model",
        "ensemble": "Ensemble: average of the hospitals' own models",
        "centralised": "Centralised: one model on all data in one place (simulation only)",
    }
    return named.get(model, f"{model.removesuffix(' alone')}'s own model")


def spoken(other: str) -> str:
    """The model that `comparison` names so, within a sentence.

    Example:
        >>> spoken("center1"), spoken("ensemble")
        ("center1's own model", "the average of the hospitals' own models")
    """
    named = {
        "ensemble": "the average of the hospitals' own models",
        "centralised": "the model trained on all data in one place",
    }
    return named.get(other, f"{other}'s own model")
