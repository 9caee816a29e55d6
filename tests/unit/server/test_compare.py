"""`stic-server compare`: runs beside each other on the screen, and their figures as CSV."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from stic_core.errors import UsageError
from stic_core.evaluation.run_results import load_run
from stic_server.cli.app import app
from support.sample_run import write_sample_run


def _compare(*arguments: Path | str) -> str:
    """The command's stdout; what it raises is raised."""
    words = ["compare", *map(str, arguments)]
    return CliRunner().invoke(app, words, catch_exceptions=False, standalone_mode=False).stdout


def test_runs_are_shown_beside_each_other(tmp_path: Path) -> None:
    """Each model's and held-out set's rows stand together; phantoms are called so; the CSV has every figure."""
    first = write_sample_run(tmp_path / "a", run_id="one", tiny_site=True, rounds=2)
    second = write_sample_run(
        tmp_path / "b", run_id="two", tiny_site=True, rounds=2, skill={"center1": 3.0, "center2": 3.0}
    )
    shown = _compare(first, second, "--out", tmp_path / "figures.csv")
    assert "PHANTOM DATA" in shown
    lines = shown.splitlines()
    heading = next(line.split() for line in lines if line.startswith("Model"))
    assert heading[:5] == ["Model", "Held-out", "set", "Run", "n"]
    at = next(place for place, line in enumerate(lines) if line.startswith("federated") and "pooled" in line)
    for line, run in zip(lines[at : at + 2], (first, second), strict=True):
        macro = load_run(run).evaluation.pooled.auc_macro
        assert f"{macro.value:.3f} ({macro.ci95_logit[0]:.3f}-{macro.ci95_logit[1]:.3f})" in line
    assert lines[at].split()[:4] == ["federated", "pooled", "one", "116"]
    assert lines[at + 1].split()[:2] == ["two", "116"]
    figures = pd.read_csv(tmp_path / "figures.csv", keep_default_na=True)
    assert len(figures) == 2 * len(load_run(first).held_out)
    empty = figures[figures["value"].isna()]
    assert len(empty) > 0
    assert empty["reason"].notna().all()
    assert f"written  {tmp_path / 'figures.csv'}" in shown


def test_runs_of_other_patients_are_refused(tmp_path: Path) -> None:
    """Before anything is shown or written, with the exit code of a wrong usage."""
    first = write_sample_run(tmp_path / "a", rounds=2)
    second = write_sample_run(tmp_path / "b", tiny_site=True, rounds=2)
    with pytest.raises(UsageError) as raised:
        _compare(first, second, "--out", tmp_path / "figures.csv")
    assert raised.value.exit_code == 2
    assert raised.value.got == "differences at center3"
    assert not (tmp_path / "figures.csv").exists()
