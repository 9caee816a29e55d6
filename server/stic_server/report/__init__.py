"""A run's report: one page (`page`), its figures as tables, and the model card.

Nothing here asks a site or computes a statistic; all of it comes from the run's folder.
"""

from stic_server.report.model_card import write_model_card
from stic_server.report.page import render, write_report
from stic_server.report.wording import human_bytes, human_seconds

__all__ = ["human_bytes", "human_seconds", "render", "write_model_card", "write_report"]
