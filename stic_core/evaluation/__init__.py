"""Held-out evaluation: what a site releases (`site`), and what it adds up to (`document`).

No torch here: logits come in as arrays, so the server can use all of it.
"""

from stic_core.evaluation.assemble import evaluation_document, pooled_document, pooled_validation
from stic_core.evaluation.comparison import PairedReport, paired_report, pool_pairs
from stic_core.evaluation.document import Evaluation, evaluation_of, read_evaluation
from stic_core.evaluation.figures import as_json
from stic_core.evaluation.pooling import pool, site_figures
from stic_core.evaluation.reports import (
    Accuracy,
    BinnedScores,
    CalibrationSums,
    HeldOutReport,
    ValidationReport,
)
from stic_core.evaluation.site import Near, site_report, validation_report
from stic_core.evaluation.table import figure, held_out_table
from stic_core.evaluation.wording import (
    auc_titles,
    difference,
    favours,
    listed,
    multiplicity,
    overall_auc,
    p_text,
    paired_sentence,
    points,
    verdict,
)

__all__ = [
    "Accuracy",
    "BinnedScores",
    "CalibrationSums",
    "Evaluation",
    "HeldOutReport",
    "Near",
    "PairedReport",
    "ValidationReport",
    "as_json",
    "auc_titles",
    "difference",
    "evaluation_document",
    "evaluation_of",
    "favours",
    "figure",
    "held_out_table",
    "listed",
    "multiplicity",
    "overall_auc",
    "p_text",
    "paired_report",
    "paired_sentence",
    "points",
    "pool",
    "pool_pairs",
    "pooled_document",
    "pooled_validation",
    "read_evaluation",
    "site_figures",
    "site_report",
    "validation_report",
    "verdict",
]
