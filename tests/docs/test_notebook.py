"""The notebook runs from its first cell to its last, on small but real files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from support.federation_kit import CLASSES, write_site_dataset, write_small_model, write_tiny_weights
from support.sample_run import write_sample_run

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "open_a_run.py"


def edited(source: str, **paths: Path) -> str:
    """The notebook with other paths at its top, as a reader would edit it."""
    for name, path in paths.items():
        source, found = re.subn(
            rf"^{name} = .*$", f"{name} = Path({str(path)!r})", source, flags=re.MULTILINE
        )
        assert found == 1, name
    return source


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The notebook's names after it ran, and what it printed."""
    folder = tmp_path_factory.mktemp("notebook")
    backbone = write_tiny_weights(folder / "tiny.safetensors")
    write_site_dataset(folder / "prepared", seed=0)
    source = edited(
        NOTEBOOK.read_text(encoding="utf-8"),
        RUN=write_sample_run(folder / "first", tiny_site=True),
        OTHER_RUN=write_sample_run(
            folder / "second", tiny_site=True, run_id="second", skill={"center1": 2.5, "center2": 2.5}
        ),
        MODEL=write_small_model(folder / "model", backbone=backbone),
        BACKBONE=backbone,
        PREPARED=folder / "prepared",
    )
    mpl.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__", "printed": []}
    names["print"] = names["printed"].append
    exec(compile(source, str(NOTEBOOK), "exec"), names)
    yield names
    names["plt"].close("all")


def test_the_roc_is_the_evaluations(cells: dict[str, Any]) -> None:
    """A curve for each class through the points of evaluation.json, its AUC in the legend."""
    axis = cells["roc_figure"].axes[0]
    pooled = cells["run"].evaluation.pooled
    curves = {line.get_label(): line for line in axis.lines if ":" in line.get_label()}
    assert [label.split(":")[0] for label in curves] == sorted(CLASSES)
    for label, line in curves.items():
        name = label.split(":")[0]
        assert line.get_xydata().tolist() == [list(point) for point in pooled.roc[name]]
        assert f"AUC {pooled.auc[name].value:.3f}" in label


def test_a_missed_round_is_a_gap(cells: dict[str, Any]) -> None:
    """center2 was away in round 7: its curve has no point there, and all 20 rounds have a place."""
    lines = {line.get_label(): line for line in cells["training_figure"].axes[0].lines}
    assert set(lines) == {"center1", "center2", "center3", "pooled"}
    losses = dict(lines["center2"].get_xydata().tolist())
    assert len(losses) == 20
    assert [number for number, loss in losses.items() if np.isnan(loss)] == [7]


def test_two_runs_are_side_by_side(cells: dict[str, Any]) -> None:
    """Both runs' macro AUCs of each held-out set; the site with one patient is there, without a number."""
    table = cells["side_by_side"]["value"]
    assert list(table.columns) == ["20250607-101500-liver", "second"]
    assert list(table.index) == ["center1", "center2", "center3", "pooled"]
    assert table.loc["pooled", "second"] > table.loc["pooled", "20250607-101500-liver"]
    assert table.loc["center3"].isna().all()


def test_a_patient_is_scored(cells: dict[str, Any]) -> None:
    """One row of probabilities, and the three phases as the dataset has them."""
    scores = cells["scores"]
    assert list(scores.columns) == list(CLASSES)
    assert scores.sum(axis=1).tolist() == pytest.approx([1.0])
    shown = [axis.images[0].get_array() for axis in cells["patient_figure"].axes]
    image = cells["dataset"].images[cells["patient"][0]]
    assert all((phase == image[..., number]).all() for number, phase in enumerate(shown))


def test_what_is_printed(cells: dict[str, Any]) -> None:
    """Phantoms are called so, and what is not there says why."""
    text = "\n".join(cells["printed"])
    assert "PHANTOM DATA" in text
    assert "suppressed: fewer than 5 patients" in text
