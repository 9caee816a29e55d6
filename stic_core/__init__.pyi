from .config import PolicyConfig
from .data.dataset import load_dataset
from .evaluation import pool, site_report, validation_report
from .evaluation.run_results import compare_runs, load_run
from .models.saved import read_model
from .prediction import logits, predict, restore_model
from .statistics import clopper_pearson, delong, mcnemar, meta_analysis, paired_difference, paired_test

__version__: str

__all__ = [
    "PolicyConfig",
    "clopper_pearson",
    "compare_runs",
    "delong",
    "load_dataset",
    "load_run",
    "logits",
    "mcnemar",
    "meta_analysis",
    "paired_difference",
    "paired_test",
    "pool",
    "predict",
    "read_model",
    "restore_model",
    "site_report",
    "validation_report",
]
