"""Statistics of a held-out evaluation, inside one site and across sites from aggregates alone.

numpy and scipy only. Every function is pure; where there is no number it returns a value
that says why (`values`). The numbers that prove them are in `tests/unit/core/test_statistics_*.py`.
"""

from stic_core.statistics.auc import (
    Auc,
    AucTest,
    Estimate,
    Mask,
    Scores,
    absent_class,
    delong,
    difference_test,
    influence,
    newcombe_variance,
    paired_test,
    paired_variance,
    placements,
    unpaired_test,
)
from stic_core.statistics.calibration import (
    LOSS_CAP,
    Group,
    brier_sum,
    capped_loss_sum,
    ece,
    log_loss_sum,
    recalibration,
    reliability,
)
from stic_core.statistics.decisions import (
    NetBenefit,
    PredictiveValue,
    PredictiveValues,
    net_benefit,
    predictive_values,
)
from stic_core.statistics.histogram import (
    ScoreHistogram,
    cells_of,
    counted,
    merged_starts,
    score_histogram,
)
from stic_core.statistics.logistic import Recalibration, logistic_fit
from stic_core.statistics.meta import MetaAnalysis, Summary, meta_analysis, stratified, with_half_a_patient
from stic_core.statistics.multiclass import macro, macro_interpolated, margins, micro, one_vs_rest, roc_points
from stic_core.statistics.multiplicity import holm
from stic_core.statistics.non_inferiority import MARGIN, NonInferiority, mean_difference
from stic_core.statistics.paired import (
    FEW_DISCORDANT,
    PairedDifference,
    TestResult,
    cochran_q,
    mcnemar,
    mcnemar_exact,
    paired_difference,
)
from stic_core.statistics.pooled import PooledAuc, PooledScores, auc_bounds, pool_scores, pooled_auc
from stic_core.statistics.precision import expected_auc_interval, expected_proportion_interval
from stic_core.statistics.proportions import (
    IndependentProportions,
    clopper_pearson,
    independent_proportions,
    newcombe,
    wilson,
)
from stic_core.statistics.score_grid import CELLS, EDGES, SCORE_GRID
from stic_core.statistics.values import Absent, Interval, NotEstimable, Suppressed

__all__ = [
    "CELLS",
    "EDGES",
    "FEW_DISCORDANT",
    "LOSS_CAP",
    "MARGIN",
    "SCORE_GRID",
    "Absent",
    "Auc",
    "AucTest",
    "Estimate",
    "Group",
    "IndependentProportions",
    "Interval",
    "Mask",
    "MetaAnalysis",
    "NetBenefit",
    "NonInferiority",
    "NotEstimable",
    "PairedDifference",
    "PooledAuc",
    "PooledScores",
    "PredictiveValue",
    "PredictiveValues",
    "Recalibration",
    "ScoreHistogram",
    "Scores",
    "Summary",
    "Suppressed",
    "TestResult",
    "absent_class",
    "auc_bounds",
    "brier_sum",
    "capped_loss_sum",
    "cells_of",
    "clopper_pearson",
    "cochran_q",
    "counted",
    "delong",
    "difference_test",
    "ece",
    "expected_auc_interval",
    "expected_proportion_interval",
    "holm",
    "independent_proportions",
    "influence",
    "log_loss_sum",
    "logistic_fit",
    "macro",
    "macro_interpolated",
    "margins",
    "mcnemar",
    "mcnemar_exact",
    "mean_difference",
    "merged_starts",
    "meta_analysis",
    "micro",
    "net_benefit",
    "newcombe",
    "newcombe_variance",
    "one_vs_rest",
    "paired_difference",
    "paired_test",
    "paired_variance",
    "placements",
    "pool_scores",
    "pooled_auc",
    "predictive_values",
    "recalibration",
    "reliability",
    "roc_points",
    "score_histogram",
    "stratified",
    "unpaired_test",
    "wilson",
    "with_half_a_patient",
]
