"""The prepared dataset: is it whole, does it fit the tasks, is each patient in it once?"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stic_client.preflight.outcome import Check, patients, percent, some, worst
from stic_client.preparation.prepare import STATISTICS_FILE
from stic_core.config import PolicyConfig, SiteConfig
from stic_core.data.clinical import COLUMNS, MARKERS, VARIABLES
from stic_core.data.dataset import SPLITS, SiteDataset, load_dataset
from stic_core.errors import DataError
from stic_core.tasks import TASKS, Task

MOSTLY_MISSING = 0.5
"""A clinical value that more patients than this lack is worth a look at the manifest."""

OFTEN_REJECTED = 0.2
"""More rejected registrations than this point to phases that were not taken together."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is known of the prepared dataset.

    Args:
        dataset: None where it cannot be used.
        statistics: what `prepare` wrote beside it; empty where it is not about this dataset.
    """

    dataset: SiteDataset | None
    statistics: Mapping[str, Any]


def open_prepared(config: SiteConfig) -> tuple[Prepared, Check]:
    """Load and verify the dataset: every byte of it is read."""
    try:
        dataset = load_dataset(config.dataset.prepared, verify=True)
    except DataError as error:
        return Prepared(None, {}), Check("dataset", "problem", error.what, f"Run {_prepare(config)}.")
    statistics = _statistics(config, dataset)
    found = f"{patients(len(dataset))}, fingerprint {dataset.fingerprint[:12]}, verified"
    if dataset.phantom:
        found += "; phantoms, not patients"
    other = None
    if dataset.image != config.dataset.image:
        other = Check(
            "dataset",
            "problem",
            f"prepared with crop_mm {_crop(dataset.image.crop_mm)}, "
            f"site.yaml says {_crop(config.dataset.image.crop_mm)}",
            f"Run {_prepare(config)}, and ask the operator which crop_mm the federation uses.",
        )
    return Prepared(dataset, statistics), worst("dataset", other, good=found)


def _prepare(config: SiteConfig) -> str:
    return f"stic-client --site {config.site} prepare"


def _crop(side: float | None) -> str:
    return "none" if side is None else f"{side:g}"


def _statistics(config: SiteConfig, dataset: SiteDataset) -> Mapping[str, Any]:
    try:
        found = json.loads((config.dataset.prepared / STATISTICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    ours = isinstance(found, dict) and found.get("fingerprint") == dataset.fingerprint
    return found if ours else {}


def check_quarantine(prepared: Prepared, dataset: SiteDataset) -> Check:
    """Patients of the manifest who are not in the dataset."""
    if not dataset.quarantined:
        return Check("quarantine", "ok", "every patient of the manifest is in the dataset")
    reasons = [
        f"{count} for {reason}" for reason, count in prepared.statistics.get("quarantined", {}).items()
    ]
    return Check(
        "quarantine",
        "warning",
        f"{patients(dataset.quarantined)} excluded" + (f": {some(reasons, most=3)}" if reasons else ""),
        "See quarantine.csv in the prepared folder, correct the files or the manifest, and prepare again.",
    )


def check_classes(dataset: SiteDataset, *, policy: PolicyConfig, task: Task | None = None) -> Check:
    """Do the labels fit a task that this site takes part in, with every class where it is needed?

    Args:
        task: the federation's, where it is known; else the one of `policy.tasks` that fits best.
    """
    labels = sorted(set(dataset.labels) - {""})
    known = [task] if task else [TASKS[name] for name in policy.tasks if name in TASKS]
    fitting = [one for one in known if set(one.classes) <= set(labels)] or [
        one for one in known if not set(one.classes).isdisjoint(labels)
    ]
    strange = sorted(set(labels) - {name for one in (*known, *TASKS.values()) for name in one.classes})
    if strange or not fitting:
        wanted = (
            "; ".join(f"{one.name}: {', '.join(one.classes)}" for one in known)
            or "tasks of the operator's own"
        )
        # A task that the operator spelled out is not known before a run: its name alone is in the policy.
        own = not task and len(known) < len(policy.tasks)
        return Check(
            "classes",
            "warning" if own else "problem",
            f"the labels {', '.join(strange or labels) or '(none)'} fit no task that is known here ({wanted})",
            "Write labels as the federation's task has them, or add its task to policy.tasks.",
            tuple(row for row, label in enumerate(dataset.labels) if label in strange),
        )
    # The task that takes in most patients; of two, the one that lacks fewer classes in test.
    judged = [(dataset.left_out(one), len(_empty(dataset, one, "test")), one) for one in fitting]
    return _judge_classes(dataset, task=min(judged, key=lambda item: item[:2])[2], policy=policy)


def _empty(dataset: SiteDataset, task: Task, split: str) -> list[str]:
    return [name for name, count in dataset.counts(task)[split].items() if count == 0]


def _judge_classes(dataset: SiteDataset, *, task: Task, policy: PolicyConfig) -> Check:
    counts = dataset.counts(task)
    shown = "; ".join(
        f"{split} {sum(counts[split].values())} ({', '.join(f'{name} {n}' for name, n in counts[split].items())})"
        for split in SPLITS
    )
    unlabelled = tuple(row for row, label in enumerate(dataset.labels) if not label)
    others = dataset.left_out(task) - len(unlabelled)
    if others:
        shown += f"; {others} of other classes left out"
    parts: list[Check] = []
    if unlabelled:
        parts.append(
            Check(
                "classes",
                "warning",
                f"{patients(len(unlabelled))} without a label, left out of every run",
                "Give a label in the manifest, or keep patients for prediction in a manifest of their own.",
                unlabelled,
            )
        )

    def note(status: str, found: str, remedy: str) -> None:
        parts.append(Check("classes", "problem" if status == "problem" else "warning", found, remedy))

    if empty := _empty(dataset, task, "test"):
        note(
            "problem",
            f"task {task.name}: no {', no '.join(empty)} in test",
            "Hold out patients of every class, and prepare again.",
        )
    if not sum(counts["train"].values()):
        note("problem", "no training patients", "Put patients into train in the manifest, and prepare again.")
    elif empty := _empty(dataset, task, "train"):
        note(
            "warning",
            f"task {task.name}: no {', no '.join(empty)} in train",
            "The site trains without this class; see whether patients of it can be added.",
        )
    if sum(counts["val"].values()) < policy.min_cell:
        note(
            "warning",
            f"{patients(sum(counts['val'].values()))} in val, fewer than policy.min_cell {policy.min_cell}",
            "The site's validation will not count; add patients to val.",
        )
    few = [f"{name} {n}" for name, n in counts["test"].items() if 0 < n < policy.min_class]
    if few:
        note(
            "warning",
            f"few test patients of a class: {', '.join(few)}; policy.min_class is {policy.min_class}",
            "The AUC of such a class is not released; hold out more of its patients.",
        )
    return worst("classes", *parts, good=f"task {task.name}: {shown}")


def check_subjects(dataset: SiteDataset) -> Check | None:
    """Pseudonyms in two splits that are one but for case, separators or leading zeros."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, subject in enumerate(dataset.subjects):
        parts = re.findall(r"\d+|[a-z]+", subject.lower())
        rows["-".join(str(int(part)) if part.isdigit() else part for part in parts)].append(row)
    across = [
        same for same in rows.values() if len(same) > 1 and len({dataset.splits[row] for row in same}) > 1
    ]
    if not across:
        return None
    exact = any(len({dataset.subjects[row] for row in same}) < len(same) for same in across)
    return Check(
        "duplicates",
        "problem" if exact else "warning",
        f"{len(across)} pseudonyms in two splits"
        + ("" if exact else " that differ only in how they are written"),
        "Check whether they are the same person, keep one row for each, and prepare again.",
        tuple(row for same in across for row in same),
    )


def missing_rates(prepared: Prepared) -> dict[str, float]:
    """Share of patients without a value, by clinical variable.

    Without `prepare`'s own figures only the laboratory values can be told: a missing age or
    gender looks like the reference level.
    """
    if missing := prepared.statistics.get("missing"):
        return {name: float(missing[name]) for name in VARIABLES if name in missing}
    assert prepared.dataset is not None
    prefixes = {name: marker.prefix for name, marker in MARKERS.items()} | {"hbsag": "HBsAg"}
    rates = {}
    for name, prefix in prefixes.items():
        columns = [number for number, column in enumerate(COLUMNS) if column.startswith(f"{prefix}_")]
        rates[name] = float((prepared.dataset.clinical[:, columns].sum(axis=1) == 0).mean())
    return rates


def check_clinical(prepared: Prepared) -> Check:
    """How much of the clinical record is missing."""
    rates = missing_rates(prepared)
    mostly = [f"{name} {percent(rate)}" for name, rate in rates.items() if rate > MOSTLY_MISSING]
    if mostly:
        return Check(
            "clinical",
            "warning",
            f"mostly missing: {', '.join(mostly)}",
            "Compare with the hospital's records: a misread column, or a unit that is not set, looks like this.",
        )
    return Check(
        "clinical", "ok", "missing: " + ", ".join(f"{name} {percent(rate)}" for name, rate in rates.items())
    )


def check_registration(prepared: Prepared, dataset: SiteDataset) -> Check:
    """How many registrations were rejected, and how many crops had no place."""
    statistics = prepared.statistics
    if not statistics:
        return Check(
            "registration", "skipped", "prepare left no figures beside this dataset", "Run prepare again."
        )
    rejected, tried = int(statistics.get("rejected", 0)), int(statistics.get("registrations", 0))
    placeless = int(statistics.get("without_place", 0))
    often = nowhere = None
    if tried and rejected / tried > OFTEN_REJECTED:
        often = Check(
            "registration",
            "warning",
            f"{rejected} of {tried} registrations rejected",
            "Look at warnings.csv, and at prepare --checkerboards: phases of different studies look like this.",
        )
    if placeless:
        nowhere = Check(
            "registration",
            "warning",
            f"{patients(placeless)} of {len(dataset)} cannot be cropped, since the lesion's place is not known",
            "Give a mask, or lesion_row and lesion_col, in the manifest.",
        )
    return worst("registration", often, nowhere, good=f"{tried - rejected} of {tried} registrations accepted")
