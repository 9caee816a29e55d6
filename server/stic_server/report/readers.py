"""Reader studies that hospitals exported: checked, kept with the run, shown in its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from stic_core.errors import DataError
from stic_core.evaluation import Evaluation, listed
from stic_core.evaluation.readers.release import ReaderRelease, StudyFigures, figures_of, read_release
from stic_core.evaluation.readers.wording import WITH, between_sentences, helped_sentences, several
from stic_core.statistics import Absent
from stic_core.system.files import write_atomically

Json: TypeAlias = Any

FOLDER = "readers"
LARGEST = 1_000_000
"""Bytes; a study of many readers has some ten thousand."""


def keep_study(run: Path, file: Path, *, record: Json, evaluation: Evaluation | None) -> Path:
    """Check a site's file against the run, and keep it in the run's folder.

    Returns:
        Where it lies; a later file of the same site takes its place.

    Raises:
        DataError: it is no exported study, or of another model, site, task or set of patients.
    """
    found = _read(file)
    _check(found, name=file.name, record=record, evaluation=evaluation)
    target = run / FOLDER / f"{found.site}.json"
    write_atomically(target, found.model_dump_json(indent=1) + "\n")
    return target


def read_studies(run: Path, *, record: Json, evaluation: Evaluation | None) -> dict[str, StudyFigures]:
    """The studies kept with a run, by site, with every figure that their counts give.

    Raises:
        DataError: one that is no longer of this run's model, such as after another evaluation.
    """
    studies = {}
    for file in sorted((run / FOLDER).glob("*.json")):
        found = _read(file)
        _check(found, name=f"{FOLDER}/{file.name}", record=record, evaluation=evaluation)
        studies[found.site] = figures_of(found)
    return studies


def readers_view(study: StudyFigures) -> dict[str, Any]:
    """What the template shows of one site's study."""
    called = {f"{reader} aided": f"{reader} with the model's help" for reader in study.readers}
    return {
        "study": study,
        "rows": [
            (judge if condition else "the model", WITH.get(condition, ""), figures)
            for judge, condition, figures in study.judges
        ],
        "pairs": [(called.get(first, "the model"), second, pair) for first, second, pair in study.pairs],
        "missing": _without_points(study),
        "helped": helped_sentences(study),
        "between": between_sentences(study),
        "several": several(study),
    }


def _without_points(study: StudyFigures) -> list[str]:
    """Readings that have no point on a plot, with the classes, since the hospital keeps a count of theirs back."""
    found = []
    for judge, condition, figures in study.judges:
        hidden = [
            name
            for name in study.classes
            if isinstance(figures.sensitivity[name], Absent) or isinstance(figures.specificity[name], Absent)
        ]
        if condition and hidden:
            found.append(f"{judge} {WITH[condition]} ({listed(hidden)})")
    return found


def _check(found: ReaderRelease, *, name: str, record: Json, evaluation: Evaluation | None) -> None:
    facts = record["sites"].get(found.site)
    if facts is None:
        raise DataError(
            f"{name} comes from a site that did not take part in this run",
            got=found.site,
            expected=" or ".join(sorted(record["sites"])),
        )
    if evaluation is None:
        raise DataError(
            f"{name}: the run was not evaluated, so there is no model to compare the readers with"
        )
    for what, got, expected in (
        ("model", found.model_digest, evaluation.model_digest),
        ("set of held-out patients", found.test_fingerprint, facts.get("test_fingerprint", "")),
        ("number of held-out patients", found.n, facts["patients"]["test"]["n"]),
        ("task", ", ".join(found.classes), ", ".join(evaluation.classes)),
    ):
        if got != expected:
            raise DataError(
                f"{name}: its {what} is not this run's",
                got=str(got)[:40],
                expected=str(expected)[:40] or "one that the record names",
                advice="Ask the hospital for a study of this run's model.",
            )


def _read(file: Path) -> ReaderRelease:
    try:
        if file.stat().st_size > LARGEST:
            raise DataError(
                f"{file.name} is too large for a reader study", expected=f"at most {LARGEST} bytes"
            )
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file.name} cannot be read", got=type(error).__name__) from None
    return read_release(text, source=file.name)
