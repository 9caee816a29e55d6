"""Held-out evaluation: what a site releases (`site`), and what it adds up to (`document`).

No torch here: logits come in as arrays, so the server can use all of it.
"""

from stic_core.evaluation.comparison import PairedReport, paired_report, pool_pairs
from stic_core.evaluation.document import (
    evaluation_document,
    model_block,
    pooled_validation,
    score_edges,
)
from stic_core.evaluation.pooling import pool, site_block
from stic_core.evaluation.site import (
    Accuracy,
    CalibrationSums,
    HeldOutReport,
    ValidationReport,
    site_report,
    validation_report,
)
from stic_core.evaluation.table import figure, held_out_table, models_of
from stic_core.evaluation.wording import (
    difference,
    favours,
    listed,
    multiplicity,
    p_text,
    paired_sentence,
    points,
    verdict,
)

__all__ = [
    "Accuracy",
    "CalibrationSums",
    "HeldOutReport",
    "PairedReport",
    "ValidationReport",
    "difference",
    "evaluation_document",
    "favours",
    "figure",
    "held_out_table",
    "listed",
    "model_block",
    "models_of",
    "multiplicity",
    "p_text",
    "paired_report",
    "paired_sentence",
    "points",
    "pool",
    "pool_pairs",
    "pooled_validation",
    "score_edges",
    "site_block",
    "site_report",
    "validation_report",
    "verdict",
]
