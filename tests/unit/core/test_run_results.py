"""A run's folder as DataFrames: the numbers of its files, and a reason wherever there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stic_core.errors import UsageError
from stic_core.evaluation.run_frames import CALIBRATION, COMPARISON, HELD_OUT, ROC, ROUNDS
from stic_core.evaluation.run_results import Run, compare_runs, load_run
from support.sample_run import CLASSES, write_sample_run

SETS = ["center1", "center2", "center3", "pooled"]
MODELS = ["federated", "center1 alone", "center2 alone", "ensemble"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two phantom centres, and one with a single patient."""
    return load_run(write_sample_run(tmp_path_factory.mktemp("run"), tiny_site=True))


@pytest.fixture(scope="module")
def document(run: Run) -> Any:
    """The run's evaluation.json, as it lies on the disk."""
    return json.loads((run.path / "evaluation.json").read_text())


def block_of(document: Any, model: str, where: str) -> Any:
    """One model's figures on one held-out set, found in evaluation.json by hand."""
    if model.endswith(" alone"):
        document = document["local_only"][model.removesuffix(" alone")]
    elif model != "federated":
        document = document[model]
    return document["pooled"] if where == "pooled" else document["sites"][where]


def said(value: Any) -> str:
    """The reason of a figure as the frames say it; empty where there is a number."""
    if not isinstance(value, dict):
        return ""
    kinds = {"suppressed": "suppressed: ", "not_estimable": "not estimable: "}
    return next((text + value[key] for key, text in kinds.items() if key in value), "")


def change(folder: Path, name: str, **facts: object) -> Path:
    """A run's folder with other facts in one of its files."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return folder


def test_held_out_figures_are_those_of_the_evaluation(run: Run, document: Any) -> None:
    """Every model, held-out set, figure and class has one row, with the document's numbers or its reason."""
    frame = run.held_out
    assert tuple(frame.columns) == HELD_OUT
    assert len(frame) == len(MODELS) * len(SETS) * (4 + 3 * len(CLASSES))
    assert not frame.duplicated(["model", "held_out_set", "figure", "class"]).any()
    assert list(frame["model"].unique()) == MODELS
    for row in frame.to_dict("records"):
        block = block_of(document, row["model"], row["held_out_set"])
        value = block[row["figure"]]
        value = value[row["class"]] if row["class"] else value
        assert row["n"] == block["n"]
        if row["reason"]:
            assert row["reason"] == said(value)
            assert pd.isna([row[name] for name in ("value", "lower", "upper", "standard_error")]).all()
        elif row["figure"] == "auc_macro_interpolated":
            assert row["value"] == value
        else:
            logit = row["figure"].startswith("auc")
            assert row["value"] == value["value"]
            assert [row["lower"], row["upper"]] == value["ci95_logit" if logit else "ci95"]
            assert row["interval"] == ("logit" if logit else "clopper-pearson")
            assert row["standard_error"] == value["se"] if logit else pd.isna(row["standard_error"])
    assert frame["value"].isna().sum() == (frame["reason"] != "").sum() > 0


def test_comparisons_are_those_of_the_evaluation(run: Run, document: Any) -> None:
    """Differences, intervals, counts and p values; a site without them is there, without a 0."""
    frame = run.comparison
    assert tuple(frame.columns) == COMPARISON
    assert len(frame) == 3 * len(SETS) * (1 + len(CLASSES))
    for row in frame.to_dict("records"):
        pair = document["comparison"][row["other_model"].removesuffix(" alone")]
        pair = pair["pooled"] if row["held_out_set"] == "pooled" else pair["sites"][row["held_out_set"]]
        found = pair["auc"][row["class"]] if row["class"] else pair["accuracy"]
        if row["held_out_set"] == "center3" or said(found):
            assert row["reason"] == said(found) != ""
            assert pd.isna([row[name] for name in ("n", "difference", "lower", "upper", "p")]).all()
            continue
        assert pd.isna(row["n"]) if not pair["n"] else row["n"] == pair["n"]
        assert [row["difference"], row["lower"], row["upper"]] == [found["difference"], *found["ci95"]]
        assert row["p"] == found["p"]
        if row["figure"] == "accuracy":
            assert [row["only_federated_right"], row["only_other_right"]] == [found["b"], found["c"]]


def test_calibration_is_that_of_the_evaluation(run: Run, document: Any) -> None:
    """Scores and recalibration of every model on every held-out set."""
    frame = run.calibration
    assert tuple(frame.columns) == CALIBRATION
    assert len(frame) == len(MODELS) * len(SETS) * (3 + 3 * len(CLASSES))
    for row in frame.to_dict("records"):
        block = block_of(document, row["model"], row["held_out_set"])["calibration"]
        if row["held_out_set"] == "center3":
            assert row["reason"] == said(block)
            assert pd.isna(row["value"])
            continue
        own = block["classes"][row["class"]] if row["class"] else block
        fit = row["figure"] in {"slope", "intercept"}
        own = own["recalibration"] if fit else own
        value = own if "not_estimable" in own else own[row["figure"]]
        if isinstance(value, dict):  # the sample's bins are too coarse for some
            assert row["reason"] == said(value)
            assert pd.isna(row["value"])
            continue
        assert row["value"] == value
        if fit:
            assert row["standard_error"] == own[f"{row['figure']}_se"]


def test_a_fit_that_is_not_estimable_says_so(tmp_path: Path) -> None:
    """Where only the recalibration of one class is missing, its rows say why and the others stay."""
    folder = write_sample_run(tmp_path, rounds=2)
    document = json.loads((folder / "evaluation.json").read_text())
    fit = document["pooled"]["calibration"]["classes"]["ICC"]
    fit["recalibration"] = {"not_estimable": "the classes are apart"}
    (folder / "evaluation.json").write_text(json.dumps(document))
    frame = load_run(folder).calibration.query("model == 'federated' and held_out_set == 'pooled'")
    gone = frame[frame["value"].isna()]
    assert list(zip(gone["figure"], gone["class"], strict=True)) == [("slope", "ICC"), ("intercept", "ICC")]
    assert set(gone["reason"]) == {"not estimable: the classes are apart"}


def test_roc_curves_are_those_of_the_evaluation(run: Run, document: Any) -> None:
    """All points of every curve; a curve that is not there is one row with the reason."""
    assert tuple(run.roc.columns) == ROC
    for (model, where, name), curve in run.roc.groupby(["model", "held_out_set", "class"]):
        found = block_of(document, model, where)["roc"][name]
        points = curve[["false_positive_rate", "true_positive_rate"]]
        if where == "center3":
            assert list(curve["reason"]) == [said(found)]
            assert points.isna().all(axis=None)
        else:
            assert points.to_numpy().tolist() == found


def test_rounds_are_those_of_the_file(run: Run) -> None:
    """A row for each site and for all together in every round; who was away has no figures, and it says so."""
    frame = run.rounds
    assert tuple(frame.columns) == ROUNDS
    assert len(frame) == 20 * len(SETS)
    lines = {
        line["round"]: line for line in map(json.loads, (run.path / "rounds.jsonl").read_text().splitlines())
    }
    for row in frame.to_dict("records"):
        line, site = lines[row["round"]], row["site"]
        assert row["took_part"] == (site == "pooled" or site in line["sites"])
        if site in line["val"]:
            scores = [row[f"validation_{name}"] for name in ("loss", "accuracy", "n")]
            assert scores == [line["val"][site][name] for name in ("loss", "accuracy", "n")]
        if site in line["train_loss"]:
            assert row["train_loss"] == line["train_loss"][site]
            assert row["update_norm"] == line["update_norm"][site]
            assert row["bytes_up"] == line["bytes_by_site"][site]["up"]
    away = frame.query("not took_part")
    assert list(zip(away["round"], away["site"], strict=True)) == [(7, "center2")]
    assert set(away["reason"]) == {"the site did not take part in this round"}
    assert away[["train_loss", "validation_loss", "update_norm"]].isna().all(axis=None)
    assert set(frame[frame["validation_loss"].isna()]["reason"]) == {
        "the site did not take part in this round",
        "no validation scores",
    }


def test_a_suppressed_validation_says_so(tmp_path: Path) -> None:
    """What a site kept back in a round is NaN with its reason; the number of patients is there."""
    folder = write_sample_run(tmp_path, rounds=2)
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    lines[1]["val"]["center1"] = {"n": 3, "suppressed": "fewer than 5 patients"}
    (folder / "rounds.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"round": 3, "si'
    )
    rows = load_run(folder).rounds
    assert rows["round"].max() == 2  # the third line was being written when the server stopped
    row = rows.query("round == 2 and site == 'center1'").iloc[0]
    assert pd.isna(row["validation_loss"])
    assert row["validation_n"] == 3
    assert row["reason"] == "suppressed: fewer than 5 patients"


def test_a_site_without_an_answer_keeps_its_rows(tmp_path: Path) -> None:
    """A site that did not answer for one model has rows without numbers in every frame."""
    folder = write_sample_run(tmp_path, rounds=2)
    document = json.loads((folder / "evaluation.json").read_text())
    del document["ensemble"]["sites"]["center2"]
    del document["comparison"]["ensemble"]["sites"]["center2"]
    (folder / "evaluation.json").write_text(json.dumps(document))
    run = load_run(folder)
    for frame, model in (
        (run.held_out, "model"),
        (run.comparison, "other_model"),
        (run.calibration, "model"),
        (run.roc, "model"),
    ):
        rows = frame[(frame[model] == "ensemble") & (frame["held_out_set"] == "center2")]
        assert len(rows) >= len(CLASSES)
        assert set(rows["reason"]) == {"not estimable: the site did not answer for this model"}
        assert rows.select_dtypes("number").isna().all(axis=None)


def test_a_run_without_evaluation_has_its_rounds(tmp_path: Path) -> None:
    """An interrupted run can be opened; its figures are an error that says what to do."""
    folder = change(write_sample_run(tmp_path, rounds=3), "record.json", status="running")
    (folder / "evaluation.json").unlink()
    run = load_run(str(folder))
    assert run.rounds["round"].max() == 3
    with pytest.raises(UsageError) as raised:
        _ = run.held_out
    assert raised.value.got == "status: running"
    (folder / "rounds.jsonl").unlink()
    assert load_run(folder).rounds.empty
    assert tuple(load_run(folder).rounds.columns) == ROUNDS


@pytest.mark.parametrize("name", ["record.json", "evaluation.json", "rounds.jsonl"])
def test_an_altered_file_is_a_usage_error(tmp_path: Path, name: str) -> None:
    """Whichever it is."""
    folder = write_sample_run(tmp_path, rounds=2)
    (folder / name).write_text("not JSON\n")
    with pytest.raises(UsageError) as raised:
        load_run(folder)
    assert str(folder / name) in raised.value.what


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    """It says which file was looked for."""
    with pytest.raises(UsageError) as raised:
        load_run(tmp_path)
    assert raised.value.expected == "record.json"
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(UsageError) as raised:
        load_run(tmp_path)
    assert raised.value.got == "list"


def test_runs_on_the_same_patients_are_compared(tmp_path: Path) -> None:
    """One under the other, each with its name, in all their figures."""
    first = load_run(write_sample_run(tmp_path / "a", run_id="one", rounds=2))
    second = load_run(write_sample_run(tmp_path / "b", run_id="two", skill={"center1": 3.0}, rounds=2))
    both = compare_runs(first, second.path)
    assert tuple(both.columns) == ("run", *HELD_OUT)
    for run in (first, second):
        own = both[both["run"] == run.run_id].drop(columns="run").reset_index(drop=True)
        pd.testing.assert_frame_equal(own, run.held_out)
    twice = compare_runs(first, write_sample_run(tmp_path / "c", run_id="one", rounds=2))
    assert list(twice["run"].unique()) == [str(tmp_path / "a"), str(tmp_path / "c")]


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    """Other patients at a site, a site more, another task, an older record, or a single run."""
    first = load_run(write_sample_run(tmp_path / "a", rounds=2))
    with pytest.raises(UsageError) as raised:
        compare_runs(first)
    assert raised.value.got == 1

    def differs_at(folder: Path) -> object:
        with pytest.raises(UsageError) as raised:
            compare_runs(first, folder)
        assert raised.value.what.endswith("their held-out patients differ")
        return raised.value.got

    assert differs_at(write_sample_run(tmp_path / "b", tiny_site=True, rounds=2)) == "differences at center3"
    other = write_sample_run(tmp_path / "c", rounds=2)
    sites = dict(first.record["sites"])
    sites["center2"] = sites["center2"] | {"test_fingerprint": "another"}
    assert differs_at(change(other, "record.json", sites=sites)) == "differences at center2"
    del sites["center2"]["test_fingerprint"]
    older = load_run(change(other, "record.json", sites=sites))
    with pytest.raises(UsageError):
        compare_runs(older, older)
    with pytest.raises(UsageError) as raised:
        compare_runs(first, change(other, "evaluation.json", classes=["HCC", "ICC"]))
    assert raised.value.what.endswith("their classes differ")
