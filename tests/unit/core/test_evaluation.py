"""The held-out evaluation: what a site releases, and that pooled figures are those of pooled scores."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from stic_core import statistics
from stic_core.config import PolicyConfig
from stic_core.errors import DataError, SiteReportError, UsageError
from stic_core.evaluation import (
    Accuracy,
    Evaluation,
    HeldOutReport,
    ValidationReport,
    as_json,
    evaluation_document,
    evaluation_of,
    held_out_table,
    pool,
    pooled_validation,
    read_evaluation,
    site_figures,
    site_report,
    validation_report,
)
from stic_core.evaluation.assemble import between_sites
from stic_core.evaluation.document import Calibration, SitesMeta
from stic_core.evaluation.figures import AucFigure
from stic_core.statistics import Auc, Estimate, NotEstimable, Suppressed
from support.sample_run import CLASSES, SPLITS, TINY
from support.samples import held_out

POLICY = PolicyConfig()
OPEN = PolicyConfig(min_cell=1, min_class=1)


def report(
    counts: tuple[int, ...], *, seed: int = 0, policy: PolicyConfig = POLICY, **how: float
) -> HeldOutReport:
    """A site with so many held-out patients of each class."""
    return site_report(*held_out(seed, counts, **how), classes=CLASSES, policy=policy)


def document(federated: dict[str, HeldOutReport]) -> dict[str, Any]:
    """What `evaluation.json` holds of these reports, with one local-only model."""
    return as_json(evaluated(federated))


def evaluated(federated: dict[str, HeldOutReport]) -> Evaluation:
    """The evaluation of these reports, with one local-only model."""
    return evaluation_document(
        model_digest="0" * 64,
        task="malignant",
        classes=CLASSES,
        phantom=True,
        federated=federated,
        local_only={"center1": federated},
    )


def pooled_json(reports: dict[str, HeldOutReport]) -> dict[str, Any]:
    """The pooled block of these reports as the file holds it."""
    return as_json(pool(reports))


def test_evaluation_needs_no_torch() -> None:
    """The server computes documents without loading torch."""
    code = "import sys, stic_core.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_site_figures_are_those_of_its_patients() -> None:
    """Accuracy, AUCs and calibration sums of a site are computed from its own scores, exactly."""
    logits, labels = held_out(3, (40, 30, 30))
    found = site_report(logits, labels, classes=CLASSES, policy=POLICY)
    scores = statistics.margins(logits)
    assert found.accuracy == Accuracy(correct=int((logits.argmax(1) == labels).sum()), total=100)
    own = [
        *statistics.one_vs_rest(scores, labels=labels),
        statistics.macro(scores, labels=labels),
        statistics.micro(scores, labels=labels),
    ]
    for left, exact in zip([*found.auc.values(), found.auc_macro, found.auc_micro], own, strict=True):
        assert isinstance(left, Estimate)
        assert isinstance(exact, Estimate)
        assert left.value == exact.value
        assert left.variance == pytest.approx(exact.variance, rel=1e-5)
    assert found.class_counts == {"HCC": 40, "ICC": 30, "META": 30}


@pytest.mark.parametrize("counts", [(40, 30, 30), (1, 0, 0), (0, 0, 0), (3, 0, 0), (30, 12, 0), (30, 12, 4)])
def test_reports_survive_the_wire(counts: tuple[int, ...]) -> None:
    """A report is the same after JSON, whatever was suppressed."""
    first = report(counts)
    text = first.model_dump_json()
    assert HeldOutReport.model_validate_json(text) == first
    assert "NaN" not in text
    json.dumps(document({"center1": first}), allow_nan=False)


def test_nobody_gives_reasons() -> None:
    """Without held-out patients every figure says so, and none is a number."""
    empty = report((0, 0, 0))
    assert empty.n == 0
    for value in (empty.accuracy, empty.confusion, empty.auc["HCC"], empty.auc_macro, empty.histograms):
        assert isinstance(value, NotEstimable)
    block = document({"center1": empty})["pooled"]
    assert "not_estimable" in block["accuracy"]
    assert "not_estimable" in block["auc"]["HCC"]
    assert "not_estimable" in block["calibration"]


def test_one_patient_is_kept_inside() -> None:
    """One patient: only that there is one. Its AUC is not estimable, the rest is suppressed."""
    one = report((0, 1, 0))
    assert one.n == 1
    assert isinstance(one.auc["ICC"], NotEstimable)
    for value in (one.accuracy, one.class_counts, one.confusion, one.histograms, one.calibration):
        assert isinstance(value, Suppressed)


def test_one_patient_may_be_released() -> None:
    """A site that says min_cell: 1 releases the accuracy of one patient; still no AUC."""
    one = report((0, 1, 0), policy=OPEN)
    assert isinstance(one.accuracy, Accuracy)
    assert all(isinstance(auc, NotEstimable) for auc in one.auc.values())


def test_small_and_missing_classes() -> None:
    """Fewer than ten of a class keep its AUC inside; none at all make it not estimable."""
    some = report((30, 30, 4))
    assert isinstance(some.auc["HCC"], Auc)
    assert isinstance(some.auc["META"], Suppressed)
    assert "fewer than 10" in some.auc["META"].reason
    assert isinstance(some.auc_macro, Suppressed)
    none = report((30, 30, 0))
    assert isinstance(none.auc["META"], NotEstimable)
    assert isinstance(none.auc_macro, NotEstimable)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (np.array([[0.0, 1.0, np.nan]]), np.array([0])),
        (np.zeros((2, 2)), np.array([0, 1])),
        (np.zeros((2, 3)), np.array([0, 3])),
        (np.zeros((2, 3)), np.array([0])),
    ],
)
def test_bad_input_is_refused(logits: np.ndarray, labels: np.ndarray) -> None:
    """NaN, a class that is none, and shapes that disagree are data errors."""
    with pytest.raises(DataError):
        site_report(logits, labels, classes=CLASSES, policy=POLICY)


def _as_if_one_site(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([z for z, _ in parts]), np.concatenate([y for _, y in parts])


@pytest.mark.parametrize(("policy", "tolerance"), [(OPEN, 0.003), (POLICY, 0.01)])
@pytest.mark.parametrize("sharpness", [0.7, 1.3, 12.0])
def test_pooled_figures_are_those_of_pooled_scores(
    policy: PolicyConfig, tolerance: float, sharpness: float
) -> None:
    """Each federated figure against the same figure on all patients' scores together."""
    parts = [
        held_out(7, (40, 38, 35), sharpness=sharpness),
        held_out(8, (45, 33, 33), skill=1.2, sharpness=sharpness, shift=0.4 * sharpness),
    ]
    pooled = pooled_json(
        {f"center{i}": site_report(*part, classes=CLASSES, policy=policy) for i, part in enumerate(parts)}
    )
    logits, labels = _as_if_one_site(parts)
    scores = statistics.margins(logits)
    whole = site_report(logits, labels, classes=CLASSES, policy=OPEN)
    correct = int((logits.argmax(axis=1) == labels).sum())

    assert pooled["n"] == len(labels)
    assert (pooled["accuracy"]["correct"], pooled["accuracy"]["total"]) == (correct, len(labels))
    assert tuple(pooled["accuracy"]["ci95"]) == statistics.clopper_pearson(correct, total=len(labels))
    for name in CLASSES:
        exact = whole.auc[name]
        assert isinstance(exact, Auc)
        found = pooled["auc"][name]
        assert found["value"] == pytest.approx(exact.value, abs=tolerance)
        assert found["bounds"][0] - 1e-12 <= exact.value <= found["bounds"][1] + 1e-12
        assert found["se"] == pytest.approx(exact.se, rel=0.15)
        assert (found["positives"], found["negatives"]) == (exact.positives, exact.negatives)
    for kind, exact in (
        ("auc_macro", statistics.macro(scores, labels=labels)),
        ("auc_micro", statistics.micro(scores, labels=labels)),
    ):
        assert isinstance(exact, Estimate)
        assert isinstance(exact.se, float)
        assert pooled[kind]["value"] == pytest.approx(exact.value, abs=tolerance)
        assert pooled[kind]["bounds"][0] - 1e-12 <= exact.value <= pooled[kind]["bounds"][1] + 1e-12
        assert pooled[kind]["se"] >= 0.95 * exact.se

    p = np.exp(scores - np.logaddexp(0, scores))
    calibration = pooled["calibration"]
    assert calibration["brier"] == pytest.approx(
        statistics.brier_sum(p, labels=labels) / len(labels), rel=1e-3
    )
    assert calibration["log_loss"] == pytest.approx(
        statistics.capped_loss_sum(logits, labels=labels) / len(labels), rel=1e-3
    )
    errors: list[float] = []
    for name in CLASSES:
        k = CLASSES.index(name)
        fit = statistics.logistic_fit(
            scores[:, k], hits=(labels == k).astype(float), misses=(labels != k).astype(float)
        )
        assert isinstance(fit, statistics.Recalibration)
        found = calibration["classes"][name]["recalibration"]
        assert found["slope"] == pytest.approx(fit.slope, rel=0.1)
        assert found["intercept"] == pytest.approx(fit.intercept, abs=0.1)
        bins = calibration["classes"][name]["bins"]
        assert sum(group["n"] for group in bins) == len(labels)
        tenth = np.minimum((10 * p[:, k]).astype(int), 9)
        distance = np.bincount(tenth, weights=(labels == k) - p[:, k], minlength=10)
        expected = float(np.abs(distance).sum() / len(labels))
        errors.append(abs(calibration["classes"][name]["ece"] - expected))
    assert max(errors) < (5e-3 if policy is OPEN else 0.05)
    assert calibration["ece"] == pytest.approx(
        np.mean([calibration["classes"][name]["ece"] for name in CLASSES])
    )


def test_pooled_confusion_adds_up() -> None:
    """Counts of sites that release everything add up, and so do sensitivity and specificity."""
    parts = [held_out(seed, (30, 20, 20)) for seed in (1, 2)]
    pooled = pooled_json(
        {str(i): site_report(*part, classes=CLASSES, policy=OPEN) for i, part in enumerate(parts)}
    )
    logits, labels = _as_if_one_site(parts)
    predicted = logits.argmax(axis=1)
    expected = np.zeros((3, 3), dtype=int)
    np.add.at(expected, (labels, predicted), 1)
    assert pooled["confusion"] == expected.tolist()
    for k, name in enumerate(CLASSES):
        assert pooled["sensitivity"][name]["value"] == pytest.approx(expected[k, k] / expected[k].sum())
        right = int(((labels != k) & (predicted != k)).sum())
        assert pooled["specificity"][name]["correct"] == right
        assert pooled["specificity"][name]["total"] == int((labels != k).sum())


def test_suppressed_cells_stay_suppressed_in_the_pool() -> None:
    """A cell that one site hides is hidden in the sum, never counted as 0."""
    reports = {"center1": report((24, 17, 17), seed=1), "center2": report((20, 19, 18), seed=2)}
    pooled = pooled_json(reports)
    for row in range(3):
        for column in range(3):
            cells = [r.confusion[row][column] for r in reports.values() if isinstance(r.confusion, tuple)]
            found = pooled["confusion"][row][column]
            if any(isinstance(cell, Suppressed) for cell in cells):
                assert "suppressed" in found
            else:
                assert found == sum(cell for cell in cells if isinstance(cell, int))


def test_a_tiny_site_is_named_and_left_out() -> None:
    """A site below its minimum is left out of the pooled figures, by name and with its reason."""
    federated = {"center1": report((24, 17, 17)), "center3": report((0, 1, 0))}
    found = document(federated)
    assert found["pooled"]["left_out"] == {"center3": "fewer than 5 patients"}
    assert found["pooled"]["accuracy"]["total"] == 58
    assert found["pooled"]["n"] == 59
    assert found["sites"]["center3"]["accuracy"] == {"suppressed": "fewer than 5 patients"}


def test_document_has_the_shape_of_the_design() -> None:
    """Keys of evaluation.json are those that readers rely on."""
    found = document({site: report(parts["test"], seed=i) for i, (site, parts) in enumerate(SPLITS.items())})
    assert found["schema"] == 1
    assert {
        "model_digest",
        "task",
        "classes",
        "phantom",
        "sites",
        "pooled",
        "stratified_auc",
        "between_sites",
    } < set(found)
    for block in (*found["sites"].values(), found["pooled"], found["local_only"]["center1"]["pooled"]):
        assert {"n", "accuracy", "auc", "auc_micro", "auc_macro", "confusion", "calibration", "roc"} <= set(
            block
        )
        assert set(block["accuracy"]) == {"value", "correct", "total", "ci95"}
        assert {"value", "se", "ci95_wald", "ci95_logit", "positives", "negatives"} <= set(
            block["auc"]["HCC"]
        )
    assert "bounds" in found["pooled"]["auc"]["HCC"]
    assert set(found["local_only"]["center1"]) == {"sites", "pooled"}
    assert found["between_sites"]["auc"]["HCC"]["sites"] == ["center1", "center2"]
    assert found["between_sites"]["pairs"][0]["accuracy"]["ci95"][0] < 0.5


def test_sites_must_agree() -> None:
    """Other classes than the other sites' are an error that names the site."""
    good, (logits, labels) = report((24, 17, 17)), held_out(1, (24, 17, 17))
    renamed = site_report(logits, labels, classes=("A", "B", "C"), policy=POLICY)
    with pytest.raises(SiteReportError, match="center2"):
        document({"center1": good, "center2": renamed})
    with pytest.raises(SiteReportError, match="center2"):
        pool({"center1": good, "center2": renamed})


@pytest.mark.parametrize(
    "change",
    [
        {"n": 57},
        {"extra": 1},
        {"accuracy": {"correct": 59, "total": 58}},
        {"confusion": [[1, 2], [3, 4]]},
        {"auc": {}},
        {"auc_macro_interpolated": float("nan")},
    ],
)
def test_inconsistent_reports_are_refused(change: dict[str, object]) -> None:
    """The server does not take a report whose parts disagree."""
    good = report((24, 17, 17)).model_dump()
    with pytest.raises(ValidationError):
        HeldOutReport.model_validate({**good, **change})


def test_validation_scalars() -> None:
    """Loss and accuracy over sites are those of all validation patients; tiny sites stay out."""
    parts = [held_out(1, (10, 9, 9), skill=1.0), held_out(2, (12, 8, 8), skill=1.0)]
    reports = {
        str(i): validation_report(*part, classes=CLASSES, policy=POLICY) for i, part in enumerate(parts)
    }
    reports["tiny"] = validation_report(*held_out(3, TINY["test"]), classes=CLASSES, policy=POLICY)
    assert isinstance(reports["tiny"].loss_sum, Suppressed)
    logits, labels = _as_if_one_site(parts)
    found = pooled_validation(reports)
    assert found is not None
    assert found["n"] == 56
    assert found["loss"] == pytest.approx(statistics.log_loss_sum(logits, labels=labels) / 56, rel=1e-3)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    empty = validation_report(np.zeros((0, 3)), np.zeros(0, dtype=int), classes=CLASSES, policy=POLICY)
    assert pooled_validation({"a": empty}) is None
    assert ValidationReport.model_validate_json(empty.model_dump_json()) == empty


def test_table_rows_are_strings() -> None:
    """The table has a row a model and held-out set, and says in a word what is not there."""
    rows = held_out_table(evaluated({"center1": report((24, 17, 17)), "center3": report((0, 1, 0))}))
    assert rows[0] == (
        "Model",
        "Held-out set",
        "n",
        "Accuracy",
        "AUC HCC",
        "AUC ICC",
        "AUC META",
        "Macro AUC",
    )
    assert [row[:3] for row in rows[1:]] == [
        ("federated", "center1", "58"),
        ("federated", "center3", "1"),
        ("federated", "pooled", "59"),
        ("center1 alone", "center1", "58"),
        ("center1 alone", "center3", "1"),
        ("center1 alone", "pooled", "59"),
    ]
    assert rows[2][3] == "suppressed"
    assert rows[3][3].endswith(") of 58")  # of whose accuracy is released, beside all the 59
    assert rows[2][4] == "not estimable"
    assert all(isinstance(cell, str) for row in rows for cell in row)


@pytest.mark.parametrize("policy", [OPEN, POLICY, PolicyConfig(min_cell=40), PolicyConfig(release=())])
def test_the_file_reads_as_what_was_written(policy: PolicyConfig, tmp_path: Path) -> None:
    """Reading gives back every figure, interval and reason, whatever a policy keeps back."""
    sites = {
        site: report(parts["test"], seed=i, policy=policy) for i, (site, parts) in enumerate(SPLITS.items())
    }
    sites["center3"] = report(TINY["test"], policy=policy)
    found = evaluated(sites)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(as_json(found), allow_nan=False))
    assert read_evaluation(path) == found == evaluation_of(as_json(found))


def test_reasons_are_read_as_values() -> None:
    """Where the file says why there is no figure, the reader gets a value of that kind, wherever it stands."""
    found = evaluation_of(document({"center1": report((24, 17, 17)), "center3": report((0, 1, 0))}))
    tiny = found.sites["center3"]
    assert tiny.accuracy == Suppressed("fewer than 5 patients")
    assert tiny.auc["ICC"] == NotEstimable("one patient cannot give an AUC")
    assert tiny.roc["ICC"] == NotEstimable("one patient cannot give an AUC")
    assert isinstance(found.between_sites.pairs[0].accuracy, Suppressed)
    assert isinstance(found.sites["center1"].confusion, tuple)
    assert any(isinstance(cell, Suppressed) for row in found.sites["center1"].confusion for cell in row)


def test_models_are_named_as_in_tables() -> None:
    """The federated one first, then each site's own; joint ones where there are any."""
    sites = {"center1": report((24, 17, 17)), "center2": report((20, 19, 18))}
    assert list(evaluated(sites).models) == ["federated", "center1 alone"]
    facts: dict[str, Any] = {"model_digest": "0", "task": "malignant", "classes": CLASSES, "phantom": True}
    both = evaluation_document(
        **facts, federated=sites, local_only={}, extra={"centralised": sites, "ensemble": sites}
    )
    assert list(both.models) == ["federated", "ensemble", "centralised"]
    assert both.models["ensemble"].pooled == both.pooled
    with pytest.raises(ValueError, match="oracle"):
        evaluation_document(**facts, federated=sites, local_only={}, extra={"oracle": sites})


def test_auc_without_histograms_has_no_curve() -> None:
    """A site that releases AUCs but no histograms has no curve, and the reason is its policy's."""
    found = evaluated({"center1": report((24, 17, 17), policy=PolicyConfig(release=("auc",)))})
    assert found.sites["center1"].roc["HCC"] == Suppressed("this site's policy releases no histograms")
    # Files of version 0.1.0 hold the bare AUC there, and are still read.
    older = as_json(found)
    older["sites"]["center1"]["roc"]["HCC"] = {
        "value": 0.9,
        "variance": 0.01,
        "positives": 24,
        "negatives": 34,
    }
    assert isinstance(evaluation_of(older).sites["center1"].roc["HCC"], Auc)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema",), 2),
        (("surprise",), 1),
        (("pooled", "accuracy"), {"hidden": "why"}),
        (("pooled", "accuracy"), None),
        (("sites", "center1", "auc", "HCC"), {"value": 0.9}),
        (("sites", "center1", "confusion"), [[{"suppressed": 3}]]),
    ],
)
def test_what_no_run_writes_is_refused(place: tuple[str, ...], value: object, tmp_path: Path) -> None:
    """Another schema, unknown keys, and what is neither figure nor reason: the message names the place."""
    content = document({"center1": report((24, 17, 17))})
    block = content
    for key in place[:-1]:
        block = block[key]
    block[place[-1]] = value
    with pytest.raises(UsageError) as caught:
        evaluation_of(content)
    assert str(caught.value.got).startswith(".".join(place))
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError):
        read_evaluation(path)
    path.write_text("not JSON")
    with pytest.raises(UsageError):
        read_evaluation(path)


def test_a_matrix_without_class_counts_gives_no_rates() -> None:
    """A report that holds a confusion and keeps its class counts back is said so, and breaks nothing."""
    odd = report((24, 17, 17)).model_copy(update={"class_counts": Suppressed("kept")})
    found = site_figures(odd)
    assert set(found.sensitivity.values()) == set(found.specificity.values()) == {Suppressed("kept")}


def test_small_hospitals_have_bounds_and_an_auc_within_hospitals() -> None:
    """Bins of 20 patients leave the order open: no estimate, its bounds, and the stratified AUC is the headline."""
    reports = {f"center{seed}": report((10, 5, 5), seed=seed) for seed in range(5)}
    found = evaluated(reports)
    pooled = found.pooled
    assert isinstance(pooled.auc["HCC"], NotEstimable)
    assert isinstance(pooled.roc["HCC"], NotEstimable)
    assert pooled.auc_bounds is not None
    low, high = pooled.auc_bounds["HCC"]
    assert f"between {low:.3f} and {high:.3f}" in pooled.auc["HCC"].reason
    every = [held_out(seed, (10, 5, 5)) for seed in range(5)]
    logits, labels = (np.concatenate(part) for part in zip(*every, strict=True))
    exact = statistics.delong(statistics.margins(logits)[:, 0], positive=labels == 0)
    assert isinstance(exact, Auc)
    assert low - 1e-9 <= exact.value <= high + 1e-9
    assert isinstance(pooled.calibration, Calibration)
    assert isinstance(pooled.calibration.ece, NotEstimable)
    assert isinstance(pooled.calibration.classes["HCC"].recalibration, NotEstimable)
    assert isinstance(found.stratified_auc.auc["HCC"], AucFigure)


def test_exact_counts_of_all_sites_take_the_place_of_bins() -> None:
    """Where a sum over sites is known for each cell of the grid, AUC and calibration are those of the scores."""
    every = [held_out(seed, (10, 5, 5)) for seed in range(5)]
    reports = {f"center{seed}": report((10, 5, 5), seed=seed) for seed in range(5)}
    logits, labels = (np.concatenate(part) for part in zip(*every, strict=True))
    scores = statistics.margins(logits)
    summed = {}
    for k, name in enumerate(CLASSES):
        cells = statistics.cells_of(scores[:, k], edges=statistics.SCORE_GRID)
        counts, others = (
            np.bincount(cells[mask], minlength=statistics.CELLS) for mask in (labels == k, labels != k)
        )
        summed[name] = statistics.PooledScores.of_counts(counts, others, edges=statistics.SCORE_GRID)
    found = pool(reports, summed=summed)
    for k, name in enumerate(CLASSES):
        exact = statistics.delong(scores[:, k], positive=labels == k)
        auc = found.auc[name]
        assert isinstance(exact, Auc)
        assert isinstance(auc, AucFigure)
        assert auc.value == pytest.approx(exact.value, abs=0.003)
        assert auc.bounds is not None
        assert auc.bounds[0] - 1e-9 <= exact.value <= auc.bounds[1] + 1e-9
    assert isinstance(found.calibration, Calibration)
    assert isinstance(found.calibration.ece, float)


def test_a_site_with_an_auc_of_one_stays_in_the_meta_analysis() -> None:
    """It has Newcombe's interval, counts with half a patient added, and is named."""
    every = {}
    for seed in range(3):
        logits, labels = held_out(seed, (20, 12, 12))
        if seed == 0:
            logits = 20.0 * np.eye(3)[labels] + 0.01 * logits
        every[f"center{seed}"] = site_report(logits, labels, classes=CLASSES, policy=POLICY)
    assert isinstance(every["center0"].auc["HCC"], Auc)
    assert every["center0"].auc["HCC"].value == 1
    site = site_figures(every["center0"]).auc["HCC"]
    assert isinstance(site, AucFigure)
    assert isinstance(site.ci95_logit, NotEstimable)
    assert site.interval == site.ci95_newcombe == every["center0"].auc["HCC"].newcombe()
    meta = between_sites(every, classes=CLASSES).auc["HCC"]
    assert isinstance(meta, SitesMeta)
    assert (meta.sites, meta.corrected) == (tuple(every), ("center0",))
    assert meta.hartung_knapp is not None
    assert meta.hartung_knapp.ci95[0] <= meta.random.ci95[0]
