"""`predict` and `crossval`: scores, pages and means from small real datasets."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stic_client.inference.crossval import CrossValidationConfig, crossval, described
from stic_client.inference.predict import REFUSED_FILE, predict
from stic_core.config import ModelConfig, TrainingConfig
from stic_core.data.dataset import load_dataset
from stic_core.errors import DataError
from stic_core.evaluation.crossvalidation import (
    FPR_GRID,
    FoldResult,
    judge,
    roc_at_grid,
    stratified_folds,
    summarise,
)
from stic_core.models.stic import network_of
from stic_core.tasks import TASKS
from support.federation_kit import site_config, write_site_dataset, write_small_model

TASK = TASKS["malignant"]
HEADER = "subject_id,split,label,layout,rgb_path,registered,age,gender,afp,cea,hbsag"


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """A model's folder, three pictures and a manifest: one patient whole, one sparse, one lost."""
    config = site_config(tmp_path, site="s1")
    write_small_model(tmp_path / "model", backbone=config.backbone_weights["tiny"], phantom=False)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = rng.integers(0, 255, (224, 224, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    rows = [
        "P1,test,,rgb_png,a.png,1,61,male,>500,2.0,+",
        "P2,test,HCC,rgb_png,b.png,1,44,female,>20,,",
        "P3,test,HCC,rgb_png,c.png,1,44,female,,,",
    ]
    (tmp_path / "new.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return tmp_path


def test_predict_writes_scores_and_pages(hospital: Path) -> None:
    """A row and a page a patient; who cannot be read is listed with the reason, and the others go on."""
    found = predict(
        site_config(hospital, site="s1"),
        model=hospital / "model",
        manifest=hospital / "new.csv",
        out=hospital / "out",
        workers=0,
    )
    rows = list(csv.DictReader(found.scores.read_text().splitlines()))
    assert [row["subject_id"] for row in rows] == ["P1", "P2"]
    for row in rows:
        scores = {name: float(row[f"score_{name}"]) for name in TASK.classes}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert row["highest"] == max(scores, key=scores.__getitem__)
    assert set(rows[1]["missing"].split()) == {"plt", "tbil", "ca199", "cea", "ca125", "hbsag", "afp"}
    assert [refusal.subject for refusal in found.refused] == ["P3"]
    assert "P3" in (hospital / "out" / REFUSED_FILE).read_text()
    page = (found.pages / "P2.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "the bound does not determine a level" in page
    assert "Missing: Platelets, Total bilirubin, AFP, CA 19-9, CEA, CA 125, HBsAg." in page
    assert "http" not in page.replace("http-equiv", "")
    assert "AFP raised, level 1" in (found.pages / "P1.html").read_text()
    assert (found.pages / "P1.html").stat().st_mode & 0o077 == 0


def test_predict_scores_as_the_model(hospital: Path) -> None:
    """The table holds what the network says of the picture and the columns, and phantoms are said."""
    import torch

    from stic_core.data.clinical import encode
    from stic_core.training.augmentation import to_images

    config = site_config(hospital, site="s1")
    path = hospital / "model" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"phantom": True}))
    found = predict(
        config, model=hospital / "model", manifest=hospital / "new.csv", out=hospital / "out", workers=0
    )
    assert found.phantom
    assert "PHANTOM" in (found.pages / "P1.html").read_text()
    row = next(csv.DictReader(found.scores.read_text().splitlines()))
    network = network_of(
        ModelConfig(backbone="tiny"), classes=3, seed=5, weights=config.backbone_weights["tiny"]
    ).eval()
    pixels = np.asarray(Image.open(hospital / "a.png"))[None]
    clinical = encode({"age": "61", "gender": "male", "afp": ">500", "cea": "2.0", "hbsag": "+"})
    with torch.inference_mode():
        images = to_images(pixels, torch.device("cpu"))
        expected = network(images, torch.from_numpy(clinical)).softmax(1)[0]
    found_scores = [float(row[f"score_{name}"]) for name in TASK.classes]
    np.testing.assert_allclose(found_scores, expected.numpy(), atol=2e-6)


def test_a_manifest_of_nobody_is_an_error(hospital: Path) -> None:
    """The reasons are in the message and in the table."""
    (hospital / "new.csv").write_text(f"{HEADER}\nP3,test,HCC,rgb_png,c.png,1,44,female,,,\n")
    with pytest.raises(DataError, match="no patient can be used"):
        predict(
            site_config(hospital, site="s1"),
            model=hospital / "model",
            manifest=hospital / "new.csv",
            out=hospital / "out",
            workers=0,
        )


def test_folds_are_stratified_and_disjoint() -> None:
    """Each patient is held out once; each fold has each class to within one; equal seeds, equal folds."""
    labels = np.array([0] * 23 + [1] * 11 + [2] * 6)
    folds = stratified_folds(labels, folds=5, seed=1, val_share=0.2)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(40))
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in folds:
        everyone = np.concatenate([fold.train, fold.val, fold.test])
        assert sorted(everyone) == list(range(40))
        for label, count in enumerate((23, 11, 6)):
            assert abs((labels[fold.test] == label).sum() - count / 5) < 1
            assert (labels[fold.val] == label).sum() >= 1
    again = stratified_folds(labels, folds=5, seed=1, val_share=0.2)
    assert all(np.array_equal(a.test, b.test) for a, b in zip(folds, again, strict=True))


def test_the_roc_is_scikit_learns() -> None:
    """Interpolated at the grid, ties included."""
    from sklearn.metrics import roc_auc_score, roc_curve

    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 12, 80) / 12, rng.random(80) < 0.4
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    expected = np.interp(FPR_GRID, false, true)
    expected[0], expected[-1] = 0, 1
    np.testing.assert_allclose(roc_at_grid(scores, positive), expected, atol=1e-12)
    both = np.stack([1 - scores, scores], axis=1)
    assert judge(both, positive.astype(np.int64)).aucs[1] == pytest.approx(roc_auc_score(positive, scores))


def test_means_over_folds_by_hand() -> None:
    """Two folds, one perfect and one of chance: means, deviation, and the curve between them."""
    perfect, chance = tuple(np.ones(101)), tuple(FPR_GRID)
    results = [FoldResult(1.0, (1.0, 1.0), (perfect,) * 2), FoldResult(0.5, (0.5, 0.5), (chance,) * 2)]
    found = summarise(results, classes=("A", "B"))
    assert found["accuracy"] == {"mean": 0.75, "sd": pytest.approx(0.353553, abs=1e-5), "values": [1.0, 0.5]}
    assert found["auc"]["A"]["mean"] == 0.75
    curve = found["mean_roc"]["classes"]["A"]
    assert curve["true_positive_rate"][51] == pytest.approx(0.75)
    assert curve["auc_of_mean"] == pytest.approx(0.75)
    assert (curve["true_positive_rate"][:2], found["mean_roc"]["false_positive_rate"][:2]) == (
        [0, 0.5],
        [0, 0],
    )
    alone = summarise(results[:1], classes=("A", "B"))["mean_roc"]["classes"]["A"]
    assert alone["auc_of_mean"] == 1.0  # of perfect separation, not what is left of it beside the first step


def test_crossval_in_one_site(tmp_path: Path) -> None:
    """Three folds over the training patients; the held-out ones stay closed; equal seeds, equal results."""
    write_site_dataset(tmp_path / "prepared", seed=0, counts={"train": 12, "val": 6, "test": 6})
    config = site_config(tmp_path, site="s1")
    study = CrossValidationConfig(
        TASK,
        ModelConfig(backbone="tiny"),
        training=TrainingConfig(views=1, batch_size=8),
        folds=3,
        epochs=3,
    )
    one, two = (crossval(config, study, out=tmp_path / name) for name in ("one", "two"))
    assert one == two
    assert one["patients"] == dict.fromkeys(TASK.classes, 6)
    assert one["phantom"] is True
    assert len(one["accuracy"]["values"]) == 3
    assert json.loads((tmp_path / "one" / "crossval.json").read_text())["folds"] == 3
    assert described(one)[0].startswith("PHANTOM DATA")
    assert described(one)[1] == "3 folds, patients: HCC 6, ICC 6, META 6"
    assert load_dataset(tmp_path / "prepared").splits.count("test") == 6
    with pytest.raises(DataError) as refused:
        crossval(config, CrossValidationConfig(TASK, study.model, folds=7), out=tmp_path)
    assert refused.value.expected == "at least 7 of each class"
