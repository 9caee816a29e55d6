"""The ledger of looks: once a model, within two budgets, and nothing that could be subtracted."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

from stic_core.config import PolicyConfig
from stic_core.errors import DataError, PlanRefusedError
from stic_core.evaluation import HeldOutReport, Near, site_report
from stic_core.privacy.looks import HeldOutLooks, Look, ensemble_key, now, patients_of
from stic_core.privacy.release import score_counts
from stic_core.statistics import Suppressed, margins
from support.samples import held_out

CLASSES = ("HCC", "ICC", "META")
POLICY = PolicyConfig()


def look_at(
    looks: HeldOutLooks,
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    model: str,
    plan: str = "p",
    patients: tuple[str, ...] | None = None,
    classes: tuple[str, ...] = CLASSES,
) -> HeldOutReport:
    """Look at a model as a site does, and keep the look."""
    patients = patients or patients_of(f"P{row}" for row in range(len(labels)))
    starts = tuple(one for one, _ in score_counts(margins(logits), labels, policy=POLICY))
    near = looks.nearest(
        logits,
        labels=labels,
        plan=plan,
        patients=patients,
        classes=classes,
        starts=starts,
        min_cell=POLICY.min_cell,
    )
    report = site_report(logits, labels, classes=classes, policy=POLICY, near=Near(*near))
    looks.keep(
        Look(
            at=now(),
            run_id="r",
            plan=plan,
            name="federated",
            model=model,
            classes=classes,
            patients=patients,
            labels=tuple(map(int, labels)),
            logits=tuple(tuple(map(float, row)) for row in logits),
            starts=starts,
            report=report.model_dump(mode="json"),
        )
    )
    return report


def test_a_look_is_found_again_as_it_was(tmp_path: Path) -> None:
    """After a restart: the same answer for the same model, patients and task, and for no other."""
    logits, labels = held_out(1, (20, 20, 20))
    report = look_at(HeldOutLooks(tmp_path), logits, labels, model="m")
    patients = patients_of(f"P{row}" for row in range(60))
    again = HeldOutLooks(tmp_path)
    found = again.find("m", patients=patients, classes=CLASSES)
    assert found is not None
    assert HeldOutReport.model_validate(found.report) == report
    assert (found.scores == logits).all()
    assert again.find("n", patients=patients, classes=CLASSES) is None
    assert again.find("m", patients=patients[:-1], classes=CLASSES) is None
    assert again.find("m", patients=patients, classes=("A", "B", "C")) is None
    (path,) = tmp_path.glob("*.json")
    assert path.stat().st_mode & 0o077 == 0
    assert "P1" not in path.read_text().replace("P10", "")


def test_the_plans_number_and_the_hospitals_are_both_kept(tmp_path: Path) -> None:
    """Two under one plan; five in all; patients in common count, whichever way they were prepared."""
    looks = HeldOutLooks(tmp_path)
    patients = patients_of(f"P{row}" for row in range(60))
    for number in range(2):
        looks.check_room(patients, plan="p", of_plan=2, in_all=5)
        look_at(looks, *held_out(number, (20, 20, 20)), model=f"m{number}")
    with pytest.raises(PlanRefusedError):
        looks.check_room(patients, plan="p", of_plan=2, in_all=5)
    for number in range(2, 5):
        looks.check_room(patients[:30], plan=f"p{number}", of_plan=2, in_all=5)
        look_at(looks, *held_out(number, (20, 20, 20)), model=f"m{number}", plan=f"p{number}")
    with pytest.raises(PlanRefusedError):
        HeldOutLooks(tmp_path).check_room(patients[59:], plan="q", of_plan=2, in_all=5)
    HeldOutLooks(tmp_path).check_room(patients_of(["another"]), plan="q", of_plan=2, in_all=5)


def test_a_model_that_moves_few_patients_tells_nothing(tmp_path: Path) -> None:
    """One patient's answer changed: the difference of two releases would be that patient."""
    looks = HeldOutLooks(tmp_path)
    logits, labels = held_out(3, (30, 30, 30), skill=1.2)
    whole = look_at(looks, logits, labels, model="m")
    assert isinstance(whole.histograms, dict)
    changed = logits.copy()
    changed[4, (int(logits[4].argmax()) + 1) % 3] += 12.0
    report = look_at(looks, changed, labels, model="tweaked")
    assert isinstance(report.accuracy, Suppressed)
    assert isinstance(report.confusion, Suppressed)
    assert isinstance(report.histograms, Suppressed)
    assert isinstance(report.calibration, Suppressed)
    assert all(isinstance(auc, Suppressed) for auc in report.auc.values())
    # A model that is another one is told in full.
    other = look_at(looks, *held_out(4, (30, 30, 30), skill=1.2), model="other")
    assert isinstance(other.histograms, dict)


@pytest.mark.parametrize("factor", [1.05, 1.5, 2.0])
def test_the_same_order_with_other_borders_tells_nothing(factor: float) -> None:
    """All logits times a factor, under another plan: counts up to two borders would differ by single patients."""
    looks = HeldOutLooks()
    logits, labels = held_out(3, (30, 25, 25), skill=1.2)
    assert isinstance(look_at(looks, logits, labels, model="m").histograms, dict)
    report = look_at(looks, factor * logits, labels, model="scaled", plan="q")
    assert isinstance(report.histograms, Suppressed)


def test_the_same_groups_tell_nothing_of_other_classes() -> None:
    """Classes in another order under the same logits: more sums of the same matrix, and of its hidden cells."""
    looks = HeldOutLooks()
    logits, labels = held_out(3, (30, 25, 25), skill=1.2)
    look_at(looks, logits, labels, model="m")
    report = look_at(looks, logits, (labels + 1) % 3, model="n", plan="q", classes=("META", "HCC", "ICC"))
    assert isinstance(report.accuracy, Suppressed)


def test_a_set_with_one_patient_more_tells_nothing(tmp_path: Path) -> None:
    """The same model, and one patient added: what was told of the first set could be subtracted."""
    looks = HeldOutLooks(tmp_path)
    logits, labels = held_out(5, (30, 30, 30), skill=1.2)
    few = patients_of(f"P{row}" for row in range(89))
    look_at(looks, logits[:-1], labels[:-1], model="m", patients=few)
    report = look_at(looks, logits, labels, model="m")
    assert isinstance(report.accuracy, Suppressed)
    assert isinstance(report.histograms, Suppressed)


def _second_task(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Rows, labels and patients of HCC against ICC among patients of three classes."""
    rows = np.flatnonzero(labels < 2)
    return rows, labels[rows], patients_of(f"P{row}" for row in rows)


@pytest.mark.parametrize("classes", [("HCC", "ICC"), ("ICC", "HCC")])
@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_a_second_task_with_the_first_ones_order_tells_nothing(
    classes: tuple[str, str], factor: float
) -> None:
    """25 patients of META are left out, but the counts of HCC up to two borders are of the same patients."""
    looks = HeldOutLooks()
    logits, labels = held_out(3, (30, 25, 25), skill=1.2)
    assert isinstance(look_at(looks, logits, labels, model="m").histograms, dict)
    rows, of_rows, patients = _second_task(labels)
    if classes[0] == "ICC":
        of_rows = 1 - of_rows
    score = factor * margins(logits)[rows, 0]
    made = np.stack([score, np.zeros_like(score)], axis=1)
    report = look_at(looks, made, of_rows, model="n", plan="q", patients=patients, classes=classes)
    assert isinstance(report.histograms, Suppressed)


def test_a_second_task_with_a_model_of_its_own_is_told() -> None:
    """A model that sets the same patients apart in its own way shows its figures."""
    looks = HeldOutLooks()
    look_at(looks, *held_out(3, (30, 25, 25), skill=1.2), model="m")
    _, labels = held_out(3, (30, 25, 25), skill=1.2)
    rows, of_rows, patients = _second_task(labels)
    own = held_out(8, (30, 25, 25), skill=1.0)[0][rows][:, :2]
    report = look_at(looks, own, of_rows, model="n", plan="q", patients=patients, classes=("HCC", "ICC"))
    assert isinstance(report.histograms, dict)


def test_a_second_task_has_no_budget_of_its_own() -> None:
    """What a hospital allows is by patient: looks of one task count in the other."""
    looks = HeldOutLooks()
    logits, labels = held_out(3, (30, 25, 25))
    for number in range(3):
        look_at(looks, logits + number, labels, model=f"m{number}")
    _, _, patients = _second_task(labels)
    with pytest.raises(PlanRefusedError, match="3 so far"):
        looks.check_room(patients, plan="q", of_plan=4, in_all=3)


def test_clients_of_two_studies_share_a_ledger(tmp_path: Path) -> None:
    """What one looked at since the other began is known to it, and only one looks at a time."""
    first, second = HeldOutLooks(tmp_path), HeldOutLooks(tmp_path)
    look_at(first, *held_out(1, (20, 20, 20)), model="m")
    patients = patients_of(f"P{row}" for row in range(60))
    with second.alone():
        with pytest.raises(PlanRefusedError, match="1 so far"):
            second.check_room(patients, plan="q", of_plan=4, in_all=1)
        other = os.open(tmp_path / ".lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)


def test_an_ensemble_is_its_members_in_any_order() -> None:
    """So that it is looked at once."""
    assert ensemble_key(["a", "b"]) == ensemble_key(["b", "a"]) != ensemble_key(["a"])


def test_a_damaged_look_is_an_error(tmp_path: Path) -> None:
    """A site that forgot what it told would tell it again."""
    look_at(HeldOutLooks(tmp_path), *held_out(1, (20, 20, 20)), model="m")
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError):
        HeldOutLooks(tmp_path)
