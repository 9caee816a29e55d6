"""Sentences that a checklist says of a run, each made of the run's files; None where they do not hold it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from stic_core.evaluation import Evaluation, listed, overall_auc
from stic_core.evaluation.figures import AucFigure, Proportion
from stic_core.evaluation.run_facts import RunFacts
from stic_core.statistics import Interval

Json: TypeAlias = Any

TRAINING = "training"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """What a run's files hold.

    Args:
        record: `record.json`.
        facts: who took part.
        patients: as `patients_of` gives them.
        evaluation: None where there is none yet.
        plan: `plan.json`; empty where there is none.
    """

    record: Json
    facts: RunFacts
    patients: Mapping[str, Any]
    evaluation: Evaluation | None
    plan: Mapping[str, Any]

    @property
    def config(self) -> Json:
        """The federation's configuration."""
        return self.record["config"]

    @property
    def trains(self) -> bool:
        """Whether the run trained the model that it evaluated."""
        return self.facts.kind == TRAINING


Fact: TypeAlias = Callable[[RunContext], str | None]


def _kind(run: RunContext) -> str:
    if run.trains:
        return "The run develops a model, and evaluates it on held-out patients of the same hospitals."
    return "The run evaluates a model that was trained before."


def _task(run: RunContext) -> str:
    task = run.config["task"]
    return f"Task {task['name']}: {listed(list(task['classes']))} are told apart."


def _hospitals(run: RunContext) -> str:
    trained, evaluated = list(run.facts.in_the_model), list(run.facts.evaluated_by)
    said = [
        f"{what} {listed(sites)}"
        for what, sites in (("trained by", trained), ("evaluated at", evaluated))
        if sites
    ]
    return f"Model {' and '.join(said)}." if said else "No hospital has trained or evaluated yet."


def _held_out_patients(run: RunContext) -> str:
    return f"{run.patients['evaluated_on']} held-out patients{_by_class(run, 'test')}."


def _splits(run: RunContext) -> str:
    totals = run.patients["totals"]
    return (
        f"{totals['train']} patients for training, {totals['val']} for validation, {totals['test']} held out, "
        "over all hospitals; the table has them by hospital and class."
    )


def _by_class(run: RunContext, split: str) -> str:
    """` (HCC 60, ...)` where every hospital tells its counts."""
    counts: dict[str, int] = {}
    for site in run.facts.evaluated_by:
        known = run.patients["sites"].get(site)
        if known is None or not isinstance(known[split].classes, dict):
            return ""
        for name, count in known[split].classes.items():
            counts[name] = counts.get(name, 0) + count
    return f" ({', '.join(f'{name} {count}' for name, count in counts.items())})" if counts else ""


def _disjoint(run: RunContext) -> str:
    del run
    return (
        "By patient: preparation refuses a patient, or equal pixels, in two splits; a second hospital with the same "
        "dataset is excluded."
    )


def _image(run: RunContext) -> str:
    crop = run.config.get("image", {}).get("crop_mm")
    around = f", cropped to {crop:g} mm around the lesion" if crop else ""
    return (
        "One axial slice per phase (non-contrast, arterial, portal venous), window 400 HU at level 40, registered to "
        f"the non-contrast phase{around}, 224 x 224 pixels."
    )


def _predictors(run: RunContext) -> str:
    del run
    return (
        "Three CT phases and nine clinical variables (age, sex, platelets, bilirubin, AFP, CA19-9, CEA, CA125, HBsAg) "
        "in 20 columns with cut-offs fixed beforehand."
    )


def _missing(run: RunContext) -> str:
    del run
    return (
        "A missing laboratory value is 0 in all columns of its variable; nothing is imputed. "
        "Age and sex must be there."
    )


def _model(run: RunContext) -> str:
    model = run.config["model"]
    blocks = model.get("trainable_blocks", 0)
    trained = "frozen" if not blocks else f"with {blocks} trainable block{'' if blocks == 1 else 's'}"
    return f"{model['architecture']} on {model['backbone']} ({trained})."


def _training(run: RunContext) -> str | None:
    if not run.trains:
        return None
    training = run.config["training"]
    steps = training.get("local_steps")
    per_round = f"{steps} steps" if steps else f"{training['local_epochs']} epoch(s)"
    return (
        f"AdamW, learning rate {training['learning_rate']:g}, batches of {training['batch_size']}, {per_round} "
        f"per round, {training['views']} augmented views per patient."
    )


def _selection(run: RunContext) -> str | None:
    best = run.record.get("best_round")
    if not run.trains or best is None:
        return None
    return f"The model of round {best} of {run.facts.rounds} is kept; held-out patients played no part in that choice."


def _federation(run: RunContext) -> str | None:
    if not run.trains:
        return None
    algorithm = run.config.get("algorithm", {}).get("name", "fedavg")
    said = f"Federated training ({algorithm}): weights travel; no image and no patient record is shared."
    if run.plan.get("secure_aggregation"):
        said += " The server saw the hospitals' updates only as a sum (secure aggregation)."
    if privacy := run.config["training"].get("privacy"):
        level = f"epsilon {privacy['epsilon']:g}" if privacy.get("epsilon") else "a stated noise"
        said += f" Training was differentially private by patient ({level}, delta {privacy['delta']:g}, per hospital)."
    return said


def _imbalance(run: RunContext) -> str | None:
    if not run.trains:
        return None
    balanced = run.config["training"].get("class_balanced", False)
    return (
        "The loss weighs classes by their frequency."
        if balanced
        else "Nothing was done about class imbalance."
    )


def _measures(run: RunContext) -> str:
    del run
    return (
        "AUC of each class against the rest (DeLong; Wald and logit intervals), accuracy, sensitivity and "
        "specificity (Clopper-Pearson), Brier score, log loss, calibration slope; models are compared on the same "
        "patients (McNemar, DeLong)."
    )


def _scores(run: RunContext) -> str:
    del run
    return (
        "The model gives one probability per class (softmax); the class with the highest is the answer, "
        "without a threshold."
    )


def _undecided(run: RunContext) -> str:
    del run
    return "In the evaluation every patient gets a class; none is left out as indeterminate."


def _updating(run: RunContext) -> str:
    del run
    return "The model was not updated after its evaluation."


def _initial(run: RunContext) -> str | None:
    if not run.trains:
        return None
    backbone = (
        "its weights file"
        if run.config["model"].get("pretrained", True)
        else f"random (seed {run.record['seed']})"
    )
    if "warm_start" not in run.plan:
        return f"Backbone: {backbone}."
    rest = "an earlier model's weights" if run.plan["warm_start"] else f"random (seed {run.record['seed']})"
    return f"Backbone: {backbone}; what is trained on it: {rest}."


def _ensemble(run: RunContext) -> str | None:
    models = run.evaluation.models if run.evaluation else {}
    return "Compared with the ensemble of the hospitals' own models." if "ensemble" in models else None


def _external(run: RunContext) -> str | None:
    outside = run.facts.joined_for_the_evaluation
    if not run.trains:
        return "Whether these hospitals had a part in the model's training is not known to this run."
    return f"{listed(list(outside))} evaluated the model without having trained it." if outside else None


def _performance(run: RunContext) -> str | None:
    if run.evaluation is None:
        return None
    pooled, said = run.evaluation.pooled, []
    if isinstance(pooled.auc_macro, AucFigure):
        name = overall_auc(run.evaluation.classes)
        interval = pooled.auc_macro.interval
        ends = _ends(interval) if isinstance(interval, tuple) else ""
        said.append(f"{name[0].upper()}{name[1:]} {pooled.auc_macro.value:.3f}{ends}")
    if isinstance(pooled.accuracy, Proportion):
        said.append(f"accuracy {pooled.accuracy.correct} of {pooled.accuracy.total}")
    return "; ".join(said) + "." if said else None


def _ends(interval: Interval) -> str:
    return f" ({interval[0]:.3f} to {interval[1]:.3f})"


def _between(run: RunContext) -> str | None:
    if run.evaluation is None or not run.evaluation.between_sites.pairs:
        return None
    return "Each pair of hospitals is compared, and the AUCs are summarised by meta-analysis with their heterogeneity."


def _confusion(run: RunContext) -> str | None:
    if run.evaluation is None or not isinstance(run.evaluation.pooled.confusion, tuple):
        return None
    cells = [cell for row in run.evaluation.pooled.confusion for cell in row]
    shown = sum(isinstance(cell, int) for cell in cells)
    if shown == len(cells):
        return f"All {shown} cells of the pooled table are shown."
    return f"{shown} of {len(cells)} cells of the pooled table are shown; the others are withheld by the hospitals."


def _leaves(run: RunContext) -> str:
    del run
    return (
        "Images and clinical values stay in the hospitals; weights and counts leave, and pseudonyms do not."
    )


def _plan(run: RunContext) -> str | None:
    digest = run.record.get("plan_digest")
    if not digest:
        return None
    return f"The hospitals approved the plan {digest[:16]} before the run; plan.json in the run's folder is its text."


def _software(run: RunContext) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run.record["versions"].items())
    return f"{versions}; Apache-2.0."


def _model_file(run: RunContext) -> str | None:
    digest = run.record.get("model_digest")
    return f"model/ holds weights and description; SHA-256 of the weights {digest[:16]}." if digest else None


FACTS: Mapping[str, Fact] = {
    "between": _between,
    "confusion": _confusion,
    "disjoint": _disjoint,
    "ensemble": _ensemble,
    "external": _external,
    "federation": _federation,
    "held_out_patients": _held_out_patients,
    "hospitals": _hospitals,
    "image": _image,
    "imbalance": _imbalance,
    "initial": _initial,
    "kind": _kind,
    "leaves": _leaves,
    "measures": _measures,
    "missing": _missing,
    "model": _model,
    "model_file": _model_file,
    "performance": _performance,
    "plan": _plan,
    "predictors": _predictors,
    "scores": _scores,
    "selection": _selection,
    "software": _software,
    "splits": _splits,
    "task": _task,
    "training": _training,
    "undecided": _undecided,
    "updating": _updating,
}
"""By the names that the checklists use."""
