"""`evaluation.json`, typed: what it holds, and how it is read.

Its format is that of these classes, field by field in their order (`figures.as_json` writes it).
A figure that a policy keeps back is a `Suppressed`, one that the patients cannot give a
`NotEstimable`; reading gives them back as such, and refuses what is neither figure nor reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from stic_core.errors import UsageError
from stic_core.evaluation.figures import AucFigure, Json, PairedAccuracy, Proportion, Written
from stic_core.faults import first_fault
from stic_core.statistics import (
    Absent,
    Auc,
    AucTest,
    IndependentProportions,
    Interval,
    NotEstimable,
    Recalibration,
    Summary,
    Suppressed,
)

Confusion: TypeAlias = tuple[tuple[int | Suppressed, ...], ...]
"""Rows are true classes, columns predicted ones."""

Curve: TypeAlias = tuple[tuple[float, float], ...]
"""Points of a ROC curve, false and true positive rate, from (0, 0) to (1, 1)."""


@dataclass(frozen=True)
class ReliabilityBin(Written):
    """Patients whose predicted probabilities are neighbours: how many, the share observed, the mean predicted."""

    n: int
    observed: float
    predicted: float


@dataclass(frozen=True)
class ClassCalibration(Written):
    """Calibration of one class's probabilities."""

    ece: float | NotEstimable
    recalibration: Recalibration | NotEstimable
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Calibration(Written):
    """Calibration over n patients; `ece` is the mean over the classes (Kull et al., NeurIPS 2019).

    Args:
        bins: of the predicted class's probability, in files of versions before protocol 4.
    """

    n: int
    brier: float
    log_loss: float
    ece: float | NotEstimable
    classes: dict[str, ClassCalibration]
    bins: tuple[ReliabilityBin, ...] | None = None


@dataclass(frozen=True)
class Figures(Written):
    """One model on one held-out set, or on all of them together.

    Args:
        roc: by class; in older files the bare AUC of a site that releases AUCs and no histograms.
        left_out: sites that the pooled AUCs are not over, with the reason; None for a single site.
        auc_bounds: between these the pooled AUC of each class lies for certain, also where it is not shown.
    """

    n: int
    class_counts: dict[str, int] | Absent
    accuracy: Proportion | Absent
    auc: dict[str, AucFigure | Absent]
    auc_micro: AucFigure | Absent
    auc_macro: AucFigure | Absent
    auc_macro_interpolated: float | Absent
    confusion: Confusion | Absent
    sensitivity: dict[str, Proportion | Absent]
    specificity: dict[str, Proportion | Absent]
    calibration: Calibration | Absent
    roc: dict[str, Curve | Absent | Auc]
    left_out: dict[str, str] | None = None
    auc_bounds: dict[str, Interval] | None = None


@dataclass(frozen=True)
class ModelFigures(Written):
    """One model on each site's held-out set, and on all of them together."""

    sites: dict[str, Figures]
    pooled: Figures

    @property
    def sets(self) -> dict[str, Figures]:
        """Held-out sets in the order of the report, the pooled one last."""
        return {**self.sites, "pooled": self.pooled}


@dataclass(frozen=True)
class StratifiedFigures(Written):
    """AUCs that compare patients within sites only."""

    auc: dict[str, AucFigure | Absent]
    auc_macro: AucFigure | Absent


@dataclass(frozen=True)
class SitesMeta(Written):
    """Meta-analysis of the sites' AUCs of one class (`statistics.MetaAnalysis`), and of which sites.

    Args:
        hartung_knapp, prediction: None in files of older versions.
        corrected: sites whose AUC is 0 or 1, with half a patient added (`statistics.with_half_a_patient`).
        left_out: sites whose AUC is released but has no standard error, with the reason.
    """

    sites: tuple[str, ...]
    fixed: Summary
    random: Summary
    tau2: float
    q: float
    df: int
    p: float
    i2: float
    hartung_knapp: Summary | None = None
    prediction: Interval | NotEstimable | None = None
    corrected: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SitePair(Written):
    """Two sites under the federated model: different patients."""

    sites: tuple[str, str]
    accuracy: IndependentProportions | Absent
    auc: dict[str, AucTest | Absent]


@dataclass(frozen=True)
class BetweenSites(Written):
    """Do sites differ: meta-analysis by class, and every pair of sites."""

    auc: dict[str, SitesMeta | NotEstimable]
    pairs: tuple[SitePair, ...]


@dataclass(frozen=True)
class PairFigures(Written):
    """The federated model against another one on the same n patients."""

    n: int
    accuracy: PairedAccuracy | Absent
    auc: dict[str, AucTest | Absent]


@dataclass(frozen=True)
class Comparison(Written):
    """The federated model against another one on each site's held-out set, and on all of them together."""

    sites: dict[str, PairFigures | Absent]
    pooled: PairFigures

    @property
    def sets(self) -> dict[str, PairFigures | Absent]:
        """Held-out sets in the order of the report, the pooled one last."""
        return {**self.sites, "pooled": self.pooled}


@dataclass(frozen=True)
class Evaluation(Written):
    """A run's held-out evaluation.

    Args:
        model_digest: of the federated model, which `sites` and `pooled` are of.
        task: name of what is told apart.
        classes: of the task, in its order.
        phantom: a site's data are phantoms.
        local_only: each site's own model, by site.
        centralised: the model trained on all patients in one place, which only a simulation has.
        ensemble: of the sites' own models; runs of older versions have none.
        comparison: the federated model against each other one, by its name here.
        pooled_over: hospitals of a pooled evaluation, of which only sums are known: `sites` is then empty. None where
            each hospital has figures of its own.
    """

    schema: Literal[1]
    model_digest: str
    task: str
    classes: tuple[str, ...]
    phantom: bool
    sites: dict[str, Figures]
    pooled: Figures
    stratified_auc: StratifiedFigures
    between_sites: BetweenSites
    local_only: dict[str, ModelFigures]
    centralised: ModelFigures | None = None
    ensemble: ModelFigures | None = None
    comparison: dict[str, Comparison] = field(default_factory=dict)
    pooled_over: tuple[str, ...] | None = None

    @property
    def hospitals(self) -> tuple[str, ...]:
        """Whose held-out patients it is over."""
        return tuple(self.sites) if self.pooled_over is None else self.pooled_over

    @property
    def headline(self) -> tuple[AucFigure | Absent, Literal["pooled", "within hospitals"]]:
        """The AUC of all classes that stands for the federated model, and which pairs of patients it compares.

        Pooled where it can be estimated; else the stratified one, which needs no bins.
        """
        within = self.stratified_auc.auc_macro
        if isinstance(self.pooled.auc_macro, NotEstimable) and isinstance(within, AucFigure):
            return within, "within hospitals"
        return self.pooled.auc_macro, "pooled"

    @property
    def models(self) -> dict[str, ModelFigures]:
        """Every model by the name that it has in tables, the federated one first."""
        alone = {f"{owner} alone": figures for owner, figures in self.local_only.items()}
        joint = {"ensemble": self.ensemble, "centralised": self.centralised}
        return {
            "federated": ModelFigures(self.sites, self.pooled),
            **alone,
            **{name: figures for name, figures in joint.items() if figures is not None},
        }


_EVALUATION = TypeAdapter(Evaluation)


def evaluation_of(document: Mapping[str, Json], *, source: str = "evaluation.json") -> Evaluation:
    """The document, typed.

    Args:
        document: what the file holds.
        source: how messages call it.

    Raises:
        UsageError: it is not in the format that a run writes; names the first place that is not.
    """
    try:
        return _EVALUATION.validate_python(document)
    except ValidationError as error:
        raise _refused(error, source=source) from None


def read_evaluation(path: Path) -> Evaluation:
    """Read `evaluation.json`.

    Raises:
        FileNotFoundError: there is none.
        UsageError: it cannot be read, or is not in the format that a run writes; names the first place that is not.
    """
    try:
        return _EVALUATION.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{path} cannot be read", got=type(error).__name__) from None
    except ValidationError as error:
        raise _refused(error, source=str(path)) from None


def _refused(error: ValidationError, *, source: str) -> UsageError:
    fault = first_fault(error)
    return UsageError(
        f"{source} is not in the format that a run writes",
        got=f"{fault.key or 'the file'}: expected {fault.expected}",
        expected="the evaluation of a run",
        advice="Restore the file from a copy, or evaluate the model again.",
    )
