"""The main job with patients who come as DICOM files, prepared at sites of their own; one of them is real.

The real slices are neighbours of one study; they stand in for NC, ART and PV, which they are not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from stic_core.data.dataset import load_dataset
from support.federation_kit import Home, make_home, write_tiny_weights
from support.ingest_files import manifest_row, real, write_manifest, write_slices
from support.waiting import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.long]


def _computed(root: Path) -> dict[str, str]:
    """A patient computed for the purpose."""
    return write_slices(root, subject="R001", seed=1)


def _real(root: Path) -> dict[str, str]:
    """A real patient, where the files are on this machine."""
    folder = real("liver-ct-3slice")
    for name in ("01.dcm", "02.dcm", "03.dcm"):
        shutil.copy(folder / name, root)
    return manifest_row("R001", nc_path="01.dcm", art_path="02.dcm", pv_path="03.dcm", age="061Y", afp=">500")


def _join(home: Home, site: str, row: Mapping[str, str], *, root: Path) -> None:
    """Enroll, prepare and admit a site as its data engineer and the operator would."""
    write_manifest(root, [dict(row)])
    client = ("stic-client", "--site", site)
    ca = home.path / "server" / "ca.crt"
    for command in (
        (*client, "enroll", "--server", f"127.0.0.1:{home.port}", "--ca", str(ca), "--data", str(root)),
        (*client, "prepare"),
        ("stic-server", "admit", site, str(home.site(site) / "site.pub")),
    ):
        _run(home, *command)
    weights = write_tiny_weights(home.site(site) / "tiny.safetensors")
    home.edit(home.site(site) / "site.yaml", backbone_weights={"tiny": str(weights)}, device="cpu")


def _approve(home: Home, *sites: str) -> None:
    """Once all sites are admitted, which the plan names."""
    plan = home.path / "plan.json"
    _run(home, "stic-server", "plan", "--out", str(plan))
    for site in sites:
        _run(home, "stic-client", "--site", site, "approve", str(plan), "--yes")


def _run(home: Home, *command: str) -> None:
    result = home.run(*command)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("patient", [_computed, _real], ids=["computed", "real"])
def test_one_patient_each_joins_two_phantom_sites(tmp_path: Path, patient) -> None:
    """center3's patient trains, center4's is evaluated; what one patient cannot give is said to be not estimable."""
    home = make_home(tmp_path, rounds=2)
    for site, split in (("center3", "train"), ("center4", "test")):
        root = tmp_path / f"hospital-{site}"
        root.mkdir()
        _join(
            home, site, patient(root) | {"split": split, "label": "HCC", "label_source": "other"}, root=root
        )
        dataset = load_dataset(home.site(site) / "prepared")
        assert (len(dataset), dataset.phantom) == (1, False)
        if patient is _real:
            # The liver is 13 % of the first slice, at a median of 45 HU: grey 130 in the window.
            first = dataset.images[0, ..., 0]
            assert ((first >= 110) & (first <= 150)).mean() > 0.13
    _approve(home, "center3", "center4")
    sites = ["center1", "center2", "center3", "center4"]
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(home.running("stic-client", "--site", site, "--once"))
        server = stack.enter_context(home.running("stic-server", "start"))
        output, _ = server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 0, output
    assert [row["sites"] for row in home.rounds()] == [sites] * 2
    evaluation = json.loads((home.run_folder() / "evaluation.json").read_text())
    for site, patients in (("center3", 0), ("center4", 1)):
        block = evaluation["sites"][site]
        assert block["n"] == patients
        assert all(set(auc) == {"not_estimable"} for auc in block["auc"].values())
        assert set(block["auc_macro"]) == {"not_estimable"}
    assert "center3" in evaluation["local_only"]
    assert "not estimable" in output
    assert evaluation["pooled"]["n"] == sum(block["n"] for block in evaluation["sites"].values())
