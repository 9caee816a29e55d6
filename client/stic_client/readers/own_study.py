"""What a site's own files of a reader study show: names, small counts and exact curves, which never leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stic_core.evaluation.document import Curve
from stic_core.evaluation.figures import AucFigure, Json, as_json
from stic_core.evaluation.readers.release import StudyFigures
from stic_core.evaluation.readers.study import Confusion
from stic_core.statistics import Absent


@dataclass(frozen=True, slots=True)
class ModelCurve:
    """The model's exact ROC of one class; no points where there is no AUC."""

    auc: AucFigure | Absent
    points: Curve


@dataclass(frozen=True, slots=True)
class OwnStudy:
    """What the site's own files show: the figures of the study, and what never leaves.

    Args:
        roc: of the model, by class.
        rounded_scores: they come from a table, so close ones may be ties.
        confusion: of the model, and of each reader by condition.
        exported_as: under which name each reader is exported.
    """

    figures: StudyFigures
    roc: Mapping[str, ModelCurve]
    rounded_scores: bool
    confusion: Mapping[str, Confusion | Mapping[str, Confusion]]
    exported_as: Mapping[str, str]

    def as_json(self) -> Json:
        """What `reader_study.json` holds; each comparison says of how many patients it is."""
        figures = as_json(self.figures)
        for pair in (*figures["helped"].values(), *figures["against_model"].values()):
            pair["n"] = self.figures.n
        return figures | as_json(
            {
                "roc": {"classes": self.roc, "rounded_scores": self.rounded_scores},
                "confusion": self.confusion,
                "exported_as": self.exported_as,
            }
        )
