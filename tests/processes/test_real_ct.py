"""The main job on real CT: a third site with three slices of one real patient joins two phantom ones.

The slices are neighbours of one study; they stand in for NC, ART and PV, which they are not.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from stic_core.data.dataset import load_dataset
from support.federation_kit import Home, make_home, write_tiny_weights

SLICES = Path(__file__).parents[3] / "shared" / "realdata" / "liver-ct-3slice"

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not SLICES.is_dir() and "CI" not in os.environ, reason="the real CT slices are not on this machine"
    ),
]


def _join(home: Home, *, split: str) -> None:
    """Enroll, prepare and admit center3 as its data engineer and the operator would."""
    root = home.path / "hospital"
    root.mkdir()
    for name in ("01.dcm", "02.dcm", "03.dcm"):
        shutil.copy(SLICES / name, root)
    columns = "subject_id,split,label,label_source,layout,nc_path,art_path,pv_path,registered,age,gender,afp"
    row = f"R001,{split},HCC,other,dicom_slices,01.dcm,02.dcm,03.dcm,0,061Y,male,>500"
    (root / "manifest.csv").write_text(f"{columns}\n{row}\n")
    client = ("stic-client", "--site", "center3")
    address = f"127.0.0.1:{home.port}"
    ca = home.path / "server" / "ca.crt"
    for command in (
        (*client, "enroll", "--server", address, "--ca", str(ca), "--data", str(root)),
        (*client, "prepare"),
        ("stic-server", "admit", "center3", str(home.site("center3") / "site.pub")),
        ("stic-server", "plan", "--out", str(home.path / "plan.json")),
        (*client, "approve", str(home.path / "plan.json"), "--yes"),
    ):
        result = home.run(*command)
        assert result.returncode == 0, result.stderr
    weights = write_tiny_weights(home.site("center3") / "tiny.safetensors")
    home.edit(home.site("center3") / "site.yaml", backbone_weights={"tiny": str(weights)}, device="cpu")


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_real_patient_joins_two_phantom_sites(tmp_path: Path, split: str) -> None:
    """It trains or is evaluated; an AUC that one patient cannot give is said to be not estimable."""
    home = make_home(tmp_path, rounds=2)
    _join(home, split=split)
    dataset = load_dataset(home.site("center3") / "prepared")
    assert not dataset.phantom
    # The liver is 13 % of the first slice, at a median of 45 HU: grey 130 in the window.
    assert ((dataset.images[0, ..., 0] >= 110) & (dataset.images[0, ..., 0] <= 150)).mean() > 0.13
    with (
        home.running("stic-client", "--site", "center1", "--once"),
        home.running("stic-client", "--site", "center2", "--once"),
        home.running("stic-client", "--site", "center3", "--once") as third,
        home.running("stic-server", "start") as server,
    ):
        output, _ = server.communicate(timeout=180)
        assert server.returncode == 0, output
        assert third.wait(20) == 0
    (run,) = (tmp_path / "runs").iterdir()
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [row["sites"] for row in rows] == [["center1", "center2", "center3"]] * 2
    evaluation = json.loads((run / "evaluation.json").read_text())
    block = evaluation["sites"]["center3"]
    assert block["n"] == (1 if split == "test" else 0)
    assert all(set(auc) == {"not_estimable"} for auc in block["auc"].values())
    assert set(block["auc_macro"]) == {"not_estimable"}
    assert "center3" in evaluation["local_only"] or split == "test"
    assert "not estimable" in output
    assert "value" in evaluation["pooled"]["auc"]["HCC"]
