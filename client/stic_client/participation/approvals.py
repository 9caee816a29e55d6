"""Which plans the site's operator approved: one file a plan, under the plan's hash.

A plan holds all that determines what is computed, so its hash stands for it. A plan that the
server asks for and nobody approved lies under `pending` until somebody does.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from stic_client.participation.policy import check_plan
from stic_core.config import SiteConfig
from stic_core.data.dataset import SUMMARY_FILE, load_dataset
from stic_core.errors import DataError, UsageError
from stic_core.privacy.training_ledger import TrainingLedger
from stic_core.protocol.messages import RunPlan
from stic_core.protocol.plan_summary import differences
from stic_core.system.files import write_atomically
from stic_core.training.site_training import check_training


def check_beforehand(plan: RunPlan, config: SiteConfig) -> str:
    """Refuse to approve a plan that this site could not take part in, or that would fail here.

    Returns:
        The patients that it would be about, in words; that nothing is prepared yet, where that is so.

    Raises:
        PlanRefusedError: it goes beyond the site's policy, or beyond what its training patients may still cost.
        DataError: the prepared dataset has no patient of the task, was prepared otherwise, or is damaged.
    """
    check_plan(plan, config.policy)
    if not (config.dataset.prepared / SUMMARY_FILE).exists():
        return "not prepared yet, so not compared with the plan"
    dataset = load_dataset(config.dataset.prepared)
    dataset.require(plan.task)
    if dataset.image != plan.image:
        raise DataError(
            "the site's images were not prepared as the plan asks",
            got=f"crop_mm: {dataset.image.crop_mm}",
            expected=f"crop_mm: {plan.image.crop_mm}",
            advice="Set dataset.image.crop_mm in site.yaml and prepare again.",
        )
    work = check_training(plan, dataset, policy=config.policy, ledger=TrainingLedger(config.privacy))
    counts = dataset.counts(plan.task)
    told = [
        f"{split} {sum(of_split.values())} ({', '.join(f'{name} {n}' for name, n in of_split.items())})"
        for split, of_split in counts.items()
    ]
    if empty := [name for name in plan.task.classes if name not in dataset.labels]:
        told.append(f"none of {', '.join(empty)}")
    if left_out := dataset.left_out(plan.task):
        told.append(f"{left_out} of other classes left out")
    if work is not None:
        told.append(
            f"noise {work.level.noise_multiplier:.3g} x {work.level.max_grad_norm:g} on each of at most "
            f"{work.planned.steps} steps, {work.level.sample_rate:.3g} of the training patients in each, "
            f"which costs a patient epsilon {work.epsilon:.3g} at delta {work.delta:g}"
        )
    return "; ".join(told)


class PlanStore:
    """The approved and the waiting plans of one site.

    Args:
        folder: holds `approved/` and `pending/`.
    """

    def __init__(self, folder: Path) -> None:
        self._approved, self._pending = folder / "approved", folder / "pending"

    def is_approved(self, plan: RunPlan) -> bool:
        """Whether the operator approved exactly this plan."""
        return (self._approved / f"{plan.digest}.json").is_file()

    def hold(self, plan: RunPlan) -> bool:
        """Keep a plan for the operator to look at; whether it is new."""
        path = self._pending / f"{plan.digest}.json"
        new = not path.exists()
        if new:
            _write(path, plan)
        return new

    def approve(self, plan: RunPlan) -> None:
        """The operator says yes to exactly this plan, for as long as it is not withdrawn."""
        _write(self._approved / f"{plan.digest}.json", plan)
        (self._pending / f"{plan.digest}.json").unlink(missing_ok=True)

    def withdraw(self, plan: RunPlan) -> None:
        """The operator takes the yes back; a run in progress is not stopped by it."""
        (self._approved / f"{plan.digest}.json").unlink(missing_ok=True)

    def waiting(self) -> list[RunPlan]:
        """Plans that the server asked for and nobody approved, the newest first."""
        return _readable(self._pending)

    def approved(self) -> list[RunPlan]:
        """Approved plans, the newest first."""
        return _readable(self._approved)

    def unreadable(self) -> list[Path]:
        """Files of plans of another version, or damaged: nothing can run under them."""
        return [path for path in (*_files(self._pending), *_files(self._approved)) if _read(path) is None]

    def find(self, name: str) -> RunPlan:
        """A plan by the beginning of its hash, waiting or approved.

        Raises:
            UsageError: none, or more than one.
        """
        if os.path.isdir(name):  # noqa: PTH112 - a name that can be no path is no folder
            raise UsageError(f"{name} is a folder", expected="a plan's file, or the beginning of its hash")
        if os.sep in name:
            raise UsageError(f"{name} does not exist")
        paths = [*_files(self._pending), *_files(self._approved)]
        found = [path for path in paths if path.stem.startswith(name)]
        if len(found) != 1:
            raise UsageError(
                f"hash prefix {name!r} matches {len(found)} plans",
                expected="one plan",
                advice="Give more of its hash; `approve --list` shows what there is.",
            )
        return read_plan(found[0])

    def approved_alone(self) -> RunPlan:
        """The one plan that is approved.

        Raises:
            UsageError: there is none, or more than one.
        """
        found = self.approved()
        if len(found) != 1:
            listed = ", ".join(f"{plan.digest[:12]} ({plan.name})" for plan in found)
            raise UsageError(
                "no plan is approved here" if not found else f"{len(found)} plans are approved",
                got=listed or None,
                advice="Name one by the beginning of its hash."
                if found
                else "`approve --list` shows what is waiting.",
            )
        return found[0]

    def differences(self, plan: RunPlan) -> list[str]:
        """What a plan has otherwise than the one that was approved last; empty where none was."""
        before = self.approved()
        return differences(before[0], plan) if before else []


def read_plan(path: Path) -> RunPlan:
    """A plan as `stic-server plan` wrote it.

    Raises:
        UsageError: no such file, or no plan of this version.
    """
    try:
        return RunPlan.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except (ValidationError, OSError) as error:
        raise UsageError(
            f"{path} is not a plan of this version",
            got=type(error).__name__,
            expected="what `stic-server plan` wrote",
        ) from None


def _readable(folder: Path) -> list[RunPlan]:
    return [plan for path in _files(folder) if (plan := _read(path)) is not None]


def _read(path: Path) -> RunPlan | None:
    """A plan that lies in the site's own folder; None where this version cannot read it."""
    try:
        return RunPlan.model_validate_json(path.read_bytes())
    except (ValidationError, OSError):
        return None


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _write(path: Path, plan: RunPlan) -> None:
    write_atomically(path, plan.model_dump_json(indent=1) + "\n")
