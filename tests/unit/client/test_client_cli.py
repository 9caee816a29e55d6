"""`stic-client`'s commands around a manifest: a proposal, an import, and what they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stic_client.cli import app
from stic_client.connection.enroll import enroll
from stic_client.ingest.manifest import read_manifest
from stic_client.participation.final_models import Expected, FinalModels
from stic_core.config import FederationConfig
from stic_core.errors import DataError, UsageError
from stic_server.admission.certificates import make_certificates
from stic_server.federation.plan import training_of
from support.federation_kit import write_small_model, write_tiny_weights
from support.ingest_files import PHASES, write_series, write_slices
from support.public_cohort_files import miniature as miniature  # noqa: PLC0414 - a fixture is found by its name

RUNNER = CliRunner()


def _run(*arguments: str) -> str:
    """A command's stdout; what it raises is raised."""
    result = RUNNER.invoke(app, list(arguments), catch_exceptions=False, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.stdout


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An enrolled site whose data folder holds one study of three series."""
    monkeypatch.setenv("STIC_HOME", str(tmp_path))
    make_certificates(tmp_path / "server", names=["localhost"])
    data = tmp_path / "data"
    for phase in PHASES:
        write_series(data / "study" / phase, phase=phase, subject="A")
    ca = tmp_path / "server" / "ca.crt"
    enroll(tmp_path / "sites" / "s1", site="s1", address="localhost:1", ca=ca, root=data, crop_mm=None)
    return data


def test_a_proposal_is_written_beside_and_never_over(site: Path) -> None:
    """Without a label, with its confidence on the screen; a second one is refused, a manifest is left alone."""
    (site / "manifest.csv").write_text("mine")
    shown = _run("--site", "s1", "prepare", "--scan", str(site / "study"))
    assert "studies with CT: 1" in shown
    assert "confidence: 1 low" in shown
    proposed = site / "manifest.proposed.csv"
    assert str(proposed) in shown
    assert "study/nc" in proposed.read_text()
    assert not read_manifest(proposed).rows  # a label and a split are still to be added
    before = proposed.read_bytes()
    with pytest.raises(UsageError) as refused:
        _run("--site", "s1", "prepare", "--scan", str(site / "study"))
    assert refused.value.what == f"{proposed} exists"
    assert proposed.read_bytes() == before
    assert (site / "manifest.csv").read_text() == "mine"


def test_an_import_needs_no_site(miniature: Path, tmp_path: Path) -> None:
    """A manifest for each centre, and what to write into each site.yaml."""
    shown = _run("import", "mct-ltdiag", str(miniature), "--out", str(tmp_path / "out"), "--centres", "2")
    for name in ("center1", "center2"):
        path = tmp_path / "out" / f"{name}.csv"
        assert f"dataset.manifest: {path}" in shown
        assert len(read_manifest(path).rows) == 3
    assert f"dataset.root: {miniature}" in shown
    assert "excluded: 1 without images" in shown
    with pytest.raises(UsageError, match="no such task"):
        _run("import", "mct-ltdiag", str(miniature), "--out", str(tmp_path / "out"), "--task", "liver")


@pytest.mark.parametrize("words", [["--once"], ["check"], ["prepare"], ["audit"]])
def test_every_other_command_needs_a_site(words: list[str]) -> None:
    """One line that says how to name it."""
    with pytest.raises(UsageError) as refused:
        _run(*words)
    assert "stic-client --site" in str(refused.value.advice)


def test_checkerboards_are_on_request(site: Path) -> None:
    """The folder's path is printed."""
    from support.ingest_files import write_manifest

    shutil.rmtree(site / "study")
    write_manifest(site, [write_slices(site, subject="P1") | {"split": "test"}])
    assert "checkerboards:" not in _run("--site", "s1", "prepare", "--workers", "0")
    assert "checkerboards:" in _run("--site", "s1", "prepare", "--workers", "0", "--checkerboards")


def test_the_final_models_are_shown(site: Path, tmp_path: Path) -> None:
    """Those that are here with their folders, those that are expected, and for one run its folder or why not."""
    folder = tmp_path / "sites" / "s1" / "models"
    backbone = write_tiny_weights(tmp_path / "tiny.safetensors")
    write_small_model(folder / "run-1", backbone=backbone)
    plan = training_of(FederationConfig.model_validate({"model": {"backbone": "tiny"}})).plan
    FinalModels(folder).expect("run-2", Expected(plan=plan, backbone_digest="0" * 64, phantom=True))
    assert [line.split() for line in _run("--site", "s1", "model").splitlines()] == [
        ["here", "run-1", str(folder / "run-1")],
        ["missing", "run-2"],
    ]
    assert _run("--site", "s1", "model", "run-1") == f"{folder / 'run-1'}\n"
    for run, got in (("run-2", "not received yet"), ("run-3", "a run that this site took no part in")):
        with pytest.raises(DataError) as raised:
            _run("--site", "s1", "model", run)
        assert raised.value.got == got
