"""Simulations: how patients are dealt, that sites in one process are real ones, and what seeds add up to."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from stic_client.participation.participant import Participant
from stic_core.config import FederationConfig, ImageConfig
from stic_core.data.dataset import SPLITS, load_dataset, write_dataset
from stic_core.errors import DataError, UsageError
from stic_core.phantom import CENTRES, GENERATOR_VERSION, members
from stic_core.phantom.prepared import write_prepared
from stic_core.protocol.messages import Describe, TrainLocal
from stic_core.statistics import pooled
from stic_core.system.terminal import Terminal
from stic_core.tasks import TASKS
from stic_core.tensors.flat import digest
from stic_server.cli.app import app
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from stic_server.simulation import SimulationConfig, simulate
from stic_server.simulation.cohorts import dealt_out, prepared_sites, union
from stic_server.simulation.dirichlet_partition import dirichlet_partition
from stic_server.simulation.options import parse_seeds, study_of
from stic_server.simulation.scores import macro_auc
from stic_server.simulation.summary import BEST, non_inferiority, spread, summarise
from stic_server.simulation.tables import cautions, markdown, text
from support.federation_kit import (
    InProcessSites,
    Recorder,
    participant,
    write_site_dataset,
    write_tiny_weights,
)

# ---- dealing ----------------------------------------------------------------------------
from support.waiting import PATIENCE_S


@given(
    patients=st.lists(
        st.tuples(st.sampled_from(["HCC", "ICC", "META"]), st.sampled_from(SPLITS)), min_size=1, max_size=80
    ),
    sites=st.integers(2, 9),
    alpha=st.floats(0.05, 100),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_every_patient_goes_to_one_site_and_equal_seeds_deal_alike(
    patients: list, sites: int, alpha: float, seed: int
) -> None:
    """A partition: a site for each patient, the same whenever it is drawn again."""
    labels, splits = [label for label, _ in patients], [split for _, split in patients]
    dealt = dirichlet_partition(labels, splits, sites=sites, alpha=alpha, seed=seed, least=0)
    assert dealt.shape == (len(patients),)
    assert set(dealt.tolist()) <= set(range(sites))
    assert np.array_equal(
        dealt, dirichlet_partition(labels, splits, sites=sites, alpha=alpha, seed=seed, least=0)
    )


def test_a_site_has_the_same_mix_in_every_split() -> None:
    """Of a class's patients a site has the same share in train and in test, to one patient."""
    labels = ["HCC"] * 300 + ["ICC"] * 150
    splits = (["train"] * 2 + ["test"]) * 150
    dealt = dirichlet_partition(labels, splits, sites=4, alpha=0.5, seed=3, least=1)
    count = Counter(zip(labels, splits, dealt.tolist(), strict=True))
    for label, site in {(label, site) for label, _, site in count}:
        assert count[label, "train", site] / 2 == pytest.approx(count[label, "test", site], abs=1)


def test_a_small_alpha_makes_sites_differ_more() -> None:
    """The largest share of a class at one site grows as alpha falls."""
    labels, splits = ["HCC", "ICC", "META"] * 200, ["train"] * 600

    def largest(alpha: float) -> float:
        dealt = dirichlet_partition(labels, splits, sites=4, alpha=alpha, seed=0, least=1)
        return max(Counter(zip(labels, dealt.tolist(), strict=True)).values()) / 200

    assert largest(100.0) < 0.35 < largest(0.3)


def test_every_site_gets_enough_or_it_is_said() -> None:
    """At least five of each split; where no draw gives that, advice instead of an empty site."""
    labels, splits = ["HCC", "ICC"] * 60, ["train"] * 60 + ["val"] * 30 + ["test"] * 30
    dealt = dirichlet_partition(labels, splits, sites=3, alpha=0.5, seed=1)
    assert min(Counter(zip(splits, dealt.tolist(), strict=True)).values()) >= 5
    with pytest.raises(UsageError, match=r"every site 5 patients.*fewer sites"):
        dirichlet_partition(labels, splits, sites=7, alpha=0.5, seed=1)


# ---- datasets ---------------------------------------------------------------------------


def _datasets(folder: Path, *, n: int = 2, counts: dict | None = None) -> list[Path]:
    counts = counts or {"train": 12, "val": 6, "test": 12}
    for number in range(n):
        write_site_dataset(folder / f"center{number + 1}" / "prepared", seed=number, counts=counts)
    return [folder / f"center{number + 1}" / "prepared" for number in range(n)]


def test_dealt_datasets_hold_every_patient_once_with_all_that_is_theirs(tmp_path: Path) -> None:
    """Image, clinical values, label and split go along; fingerprints are of the new content."""
    given_ = prepared_sites(_datasets(tmp_path))
    dealt = dealt_out(given_, tmp_path / "dealt", task=TASKS["malignant"], sites=2, alpha=1.0, seed=0)
    assert list(dealt) == ["site1", "site2"]
    where = [subject for dataset in dealt.values() for subject in dataset.subjects]
    assert sorted(where) == sorted(f"{n}/{s}" for n, d in given_.items() for s in d.subjects)
    assert len({d.fingerprint for d in [*dealt.values(), *given_.values()]}) == 4
    for dataset in dealt.values():
        load_dataset(dataset.folder, verify=True)
        for row, subject in enumerate(dataset.subjects):
            name, own = subject.split("/")
            source = given_[name]
            before = source.subjects.index(own)
            assert np.array_equal(dataset.images[row], source.images[before])
            assert np.array_equal(dataset.clinical[row], source.clinical[before])
            assert dataset.labels[row] == source.labels[before]
            assert dataset.splits[row] == source.splits[before]


def test_only_a_tasks_patients_are_dealt_out(tmp_path: Path) -> None:
    """Else a site might get many patients, and none who takes part."""
    given_ = prepared_sites(_datasets(tmp_path, counts={"train": 12, "val": 12, "test": 12}))
    dealt = dealt_out(given_, tmp_path / "dealt", task=TASKS["hcc-icc"], sites=2, alpha=10.0, seed=0)
    assert {label for dataset in dealt.values() for label in dataset.labels} == {"HCC", "ICC"}
    assert sum(map(len, dealt.values())) == 48


def test_the_union_is_all_training_and_validation_patients_and_no_other(tmp_path: Path) -> None:
    """Nobody who is held out anywhere is in it."""
    given_ = prepared_sites(_datasets(tmp_path))
    pooled = union(given_, tmp_path / "all")
    expected = {
        (f"{name}/{subject}", split)
        for name, dataset in given_.items()
        for subject, split in zip(dataset.subjects, dataset.splits, strict=True)
        if split != "test"
    }
    assert set(zip(pooled.subjects, pooled.splits, strict=True)) == expected
    assert len(pooled) == 36


def test_prepared_datasets_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    """One dataset twice, equal names, and a folder without a dataset."""
    first, second = _datasets(tmp_path)
    copy = tmp_path / "copy" / "prepared"
    write_site_dataset(copy, seed=0, counts={"train": 12, "val": 6, "test": 12})
    with pytest.raises(UsageError) as refused:
        prepared_sites([first, copy])
    assert refused.value.got is None
    with pytest.raises(UsageError) as refused:
        prepared_sites([first, first])
    assert refused.value.got == "center1, center1"
    with pytest.raises(DataError, match="missing"):
        prepared_sites([second, tmp_path / "nothing"])


# ---- a study ----------------------------------------------------------------------------


def _federation(tmp_path: Path, **changes: object) -> FederationConfig:
    return FederationConfig.model_validate(
        {
            "name": "test",
            "model": {"backbone": "tiny"},
            "rounds": 2,
            "training": {"views": 1, "batch_size": 4},
            "backbone_weights": {"tiny": write_tiny_weights(tmp_path / "tiny.safetensors")},
            **changes,
        }
    )


def _study(tmp_path: Path, **changes: object) -> SimulationConfig:
    made = {
        "federation": _federation(tmp_path),
        "seeds": (0, 1),
        "prepared": tuple(_datasets(tmp_path)),
    }
    return SimulationConfig(**(made | changes))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulationConfig, dict]:
    """Two seeds of two sites."""
    folder = tmp_path_factory.mktemp("simulation")
    study = _study(folder)
    return folder, study, simulate(study, folder / "out", terminal=Terminal(quiet=True))


def test_a_simulated_federation_is_the_real_one(done: tuple, tmp_path: Path) -> None:
    """The clients' own participants with the same patients end with the same model, bit for bit."""
    folder, study, simulation = done
    federation = study.federation.model_copy(update={"seed": 1, "runs": tmp_path / "runs"})
    proposal = training_of(federation)
    sites = InProcessSites(
        {
            name: participant(
                tmp_path / name, site=name, seed=number, counts={"train": 12, "val": 6, "test": 12}
            )
            for number, name in enumerate(("center1", "center2"))
        }
    )
    run = RunFolder.begin(federation, proposal.plan)
    document = execute(
        proposal.plan,
        proposal.weights,
        run=run,
        sites=sites,
        limits=RunLimits(min_sites=2, join_timeout_s=PATIENCE_S, round_timeout_s=PATIENCE_S),
        observer=Recorder(),
    )
    found = json.loads((folder / "out" / simulation["results"]["1"]["run"] / "evaluation.json").read_text())
    assert simulation["results"]["1"]["model_digest"] == document["model_digest"]
    accuracy = document["local_only"]["center1"]["pooled"]["accuracy"]
    assert found["local_only"]["center1"]["pooled"]["accuracy"] == accuracy


def test_centralised_is_one_site_with_everybodys_patients(done: tuple, tmp_path: Path) -> None:
    """A client that had the union of all patients would train the same model of its own."""
    folder, study, simulation = done
    record = json.loads((folder / "out" / simulation["results"]["0"]["run"] / "record.json").read_text())
    one = participant(tmp_path, site="centralised", seed=0)
    together = union(prepared_sites(study.prepared), tmp_path / "all")
    one = Participant(
        one.config.model_copy(
            update={"dataset": one.config.dataset.model_copy(update={"prepared": together.folder})}
        )
    )
    proposal = training_of(study.federation.model_copy(update={"seed": 0, "local_only": True}))
    one.answer(Describe(run_id="r", plan=proposal.plan), None)
    question = TrainLocal(
        run_id="r",
        plan_digest=proposal.plan.digest,
        weights_digest=digest(proposal.weights, proposal.plan.tensors),
    )
    report, weights = one.answer(question, proposal.weights)
    assert weights is not None
    assert record["centralised"]["weights_digest"] == report.weights_digest
    assert record["centralised"]["patients"] == {"train": 24, "val": 12}


def test_every_arm_is_judged_on_every_site(done: tuple) -> None:
    """Federated, centralised, ensemble, and each site's own; the best own model is one of them."""
    _, _, simulation = done
    for one in simulation["results"].values():
        models = one["models"]
        assert set(models) == {
            *("federated", "centralised", "ensemble", "center1 alone", "center2 alone"),
            BEST,
        }
        for model in models.values():
            assert set(model["sites"]) == {"center1", "center2"}
            assert model["cross_site_mean"] == pytest.approx(np.mean(list(model["sites"].values())))
        own = [models["center1 alone"]["cross_site_mean"], models["center2 alone"]["cross_site_mean"]]
        assert models[BEST]["cross_site_mean"] == max(own)


def test_figures_are_those_of_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a federation estimates from histograms is at most its bounds away, even where these are too wide to be shown."""
    monkeypatch.setattr(pooled, "COARSEST", 1.0)
    monkeypatch.setattr(pooled, "COARSEST_ASSUMED", 1.0)
    folder = tmp_path
    study = _study(tmp_path, seeds=(0,))
    simulation = simulate(study, folder / "out", terminal=Terminal(quiet=True))
    for one in simulation["results"].values():
        document = json.loads((folder / "out" / one["run"] / "evaluation.json").read_text())
        low, high = document["pooled"]["auc_macro"]["bounds"]
        model = one["models"]["federated"]
        assert low <= model["pooled"] <= high
        assert model["from_histograms"] == document["pooled"]["auc_macro"]["value"]


def test_scores_of_sites_are_ranked_together() -> None:
    """By hand: right within each site, one of four pairs across them the wrong way round."""
    a = (np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
    b = (np.array([[9.0, 0.0], [5.0, 0.0]]), np.array([0, 1]))
    assert macro_auc({"a": a}) == macro_auc({"b": b}) == 1.0
    assert macro_auc({"a": a, "b": b}) == 0.75
    assert macro_auc({"a": (a[0][:1], a[1][:1])}) is None
    assert macro_auc({"a": (a[0][:0], a[1][:0])}) is None


def test_a_simulation_leaves_reports_tables_and_no_features(done: tuple) -> None:
    """A report a seed, CSV beside JSON, and nothing written into a hospital's folder."""
    folder, study, simulation = done
    out = folder / "out"
    for one in simulation["results"].values():
        assert "PHANTOM" in (out / one["run"] / "report.html").read_text().upper()
    with (out / "figures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 6 * 4  # seeds, models, two sites and two figures
    assert (out / "simulation.md").read_text() == markdown(simulation)
    assert not list((out / "work").glob("*"))
    assert not any((prepared / "features").exists() for prepared in study.prepared)
    assert "PHANTOM" in text(simulation).splitlines()[0]


def test_a_seed_that_is_done_is_not_computed_again(done: tuple, tmp_path: Path) -> None:
    """Interrupted after seed 0, the simulation computes seed 1 alone, and gives what it gave before."""
    folder, study, first = done
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    (out / "seeds" / "seed-1.json").unlink()
    again = simulate(study, out, terminal=Terminal(quiet=True))
    assert len(list((out / "runs" / "seed-0").iterdir())) == 1
    assert len(list((out / "runs" / "seed-1").iterdir())) == 2
    assert again["results"]["1"]["model_digest"] == first["results"]["1"]["model_digest"]
    assert again["registered"] == first["registered"]
    assert again["summary"] == first["summary"]


class _Interrupted(Terminal):
    """A terminal at which somebody presses Ctrl-C after the first round."""

    def progress(self, what: str, done: int, total: int) -> None:
        if what.endswith("rounds of the federation"):
            raise KeyboardInterrupt
        super().progress(what, done, total)


def test_an_interrupted_seed_goes_on_and_ends_with_the_same_model(done: tuple, tmp_path: Path) -> None:
    """It goes on in the run that was interrupted, with the models of an uninterrupted seed."""
    _, study, whole = done
    study = replace(study, seeds=(1,))
    with pytest.raises(KeyboardInterrupt):
        simulate(study, tmp_path, terminal=_Interrupted(quiet=True))
    found = simulate(study, tmp_path, terminal=Terminal(quiet=True))
    assert len(list((tmp_path / "runs" / "seed-1").iterdir())) == 1
    for fact in ("model_digest", "models", "pairs", "patients"):
        assert found["results"]["1"][fact] == whole["results"]["1"][fact]


def test_the_claim_is_registered_before_the_first_seed(tmp_path: Path) -> None:
    """Margin, rule and seeds are in the record although the first seed cannot run."""
    study = _study(tmp_path, federation=_federation(tmp_path, task="benign-malignant"))
    with pytest.raises(
        DataError, match=r"center1: this site has no patients of a class of task benign-malignant"
    ):
        simulate(study, tmp_path / "out", terminal=Terminal(quiet=True))
    simulation = json.loads((tmp_path / "out" / "simulation.json").read_text())
    assert simulation["status"] == "running"
    assert simulation["registered"]["margin"] == 0.05
    assert simulation["registered"]["seeds"] == [0, 1]
    assert simulation["results"] == {}


def test_phantoms_are_drawn_as_a_cohort_is(tmp_path: Path) -> None:
    """The same patients in the same order as on a hospital's disk, some of `train` drawn for `val`."""
    told = []
    dataset = write_prepared(
        tmp_path,
        centre="center2",
        seed=3,
        counts={"train": 5, "test": 1},
        crop_mm=160.0,
        progress=lambda done, total: told.append((done, total)),
    )
    cohort = members(centre=CENTRES["center2"], counts={"train": 5, "test": 1})
    assert dataset.subjects == tuple(member.subject for member in cohort)
    assert dataset.labels == tuple(member.label for member in cohort)
    assert Counter(dataset.splits) == {"train": 3, "val": 2, "test": 1}  # a fifth of each class, at least one
    assert dataset.phantom
    assert dataset.image == ImageConfig(crop_mm=160.0)
    assert np.asarray(dataset.images).std(axis=(1, 2, 3)).min() > 10
    assert told == [(done, 6) for done in range(1, 7)]


def test_phantoms_that_are_kept_are_not_drawn_again(tmp_path: Path) -> None:
    """A second simulation finds them and their features, and counts of their patients add up."""
    cohorts = tmp_path / "cohorts"
    for number, source in enumerate(_datasets(tmp_path)):
        found = load_dataset(source)
        write_dataset(
            cohorts / f"phantom-{GENERATOR_VERSION}-demo-160mm-seed5" / f"center{number + 1}",
            images=[np.asarray(found.images)],
            clinical=found.clinical,
            labels=found.labels,
            splits=found.splits,
            subjects=found.subjects,
            image=ImageConfig(crop_mm=160.0),
            phantom=True,
        )
    federation = _federation(tmp_path, image={"crop_mm": 160.0}, rounds=1)
    study = _study(tmp_path, federation=federation, seeds=(5,), prepared=(), cohorts=cohorts)
    simulation = simulate(study, tmp_path / "out", terminal=Terminal(quiet=True))
    assert simulation["results"]["5"]["patients"]["center1"] == {"train": 12, "val": 6, "test": 12}
    assert simulation["summary"]["same_patients"]["centralised"]["n"] == 24
    assert "no conclusion" in simulation["summary"]["non_inferiority"]["words"].lower()
    kept = {path.parent.parent.name for path in cohorts.glob("*/*/features/*")}
    assert kept == {"all", "center1", "center2"}


def test_what_was_registered_is_not_changed(done: tuple) -> None:
    """Other seeds or other training in the same folder are refused, with what differs."""
    folder, study, _ = done
    with pytest.raises(UsageError) as refused:
        simulate(replace(study, seeds=(0, 1, 2)), folder / "out", terminal=Terminal(quiet=True))
    assert str(refused.value.got).startswith("seeds ")
    assert "--out" in str(refused.value.advice)
    more = study.federation.model_copy(update={"rounds": 3})
    with pytest.raises(UsageError, match=r"got federation.rounds 2 before and 3 now"):
        simulate(replace(study, federation=more), folder / "out", terminal=Terminal(quiet=True))


def test_many_sites_by_dirichlet_on_the_command_line(tmp_path: Path) -> None:
    """Three sites out of two: a table without rows for sites that mean something else in each seed."""
    first, second = _datasets(tmp_path, counts={"train": 12, "val": 12, "test": 12})
    (tmp_path / "federation.yaml").write_text(
        "model: {backbone: tiny}\nrounds: 1\ntraining: {views: 0}\n"
        f"backbone_weights: {{tiny: {write_tiny_weights(tmp_path / 'tiny.safetensors')}}}\n"
    )
    words = ["simulate", "--config", str(tmp_path / "federation.yaml"), "--out", str(tmp_path / "out")]
    words += ["--prepared", str(first), "--prepared", str(second)]
    words += ["--split", "dirichlet", "--sites", "3", "--alpha", "0.5", "--seeds", "7"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "best site alone" in done.stdout
    assert "site1 alone" not in done.stdout
    simulation = json.loads((tmp_path / "out" / "simulation.json").read_text())
    patients = simulation["results"]["7"]["patients"]
    assert set(patients) == {"site1", "site2", "site3"}
    assert sum(counts[split] for counts in patients.values() for split in SPLITS) == 72
    some = simulation["results"]["7"]["models"]["federated"]
    assert some["pooled"] is not None
    assert some["sites"]["site1"] is some["sites"]["site2"] is None  # each lacks a class
    assert some["cross_site_mean"] == some["sites"]["site3"]
    assert "share patients" in simulation["summary"]["same_patients"]["not_estimable"]


# ---- refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"phantom": False}, "got nothing; expected --phantom or --prepared"),
        ({"prepared": [Path("a")]}, "got both --phantom and --prepared"),
        ({"phantom": False, "prepared": [Path("a"), Path("b")]}, "--config"),
        ({"split": "random"}, r"--split; got 'random'; expected centre or dirichlet"),
        ({"split": "dirichlet"}, r"got 0; expected 2 or more \(--sites\)"),
        ({"sites": 4}, r"--sites; got 4.*--split dirichlet"),
        ({"seeds": "a"}, r"--seeds; got 'a'"),
        ({"seeds": ""}, "--seeds"),
        ({"seeds": "3-1"}, "--seeds"),
        ({"seeds": "1,1"}, r"got \(1, 1\)"),
        ({"seeds": "0-99999999"}, "at most 1000"),
        ({"federation": FederationConfig()}, r"image.crop_mm .* got null"),
    ],
)
def test_words_that_do_not_go_together_are_refused(words: dict, message: str) -> None:
    """Exit code 2, before anything is computed."""
    right = {"phantom": True, "seeds": "0-4", "split": "centre", "federation": None}
    with pytest.raises(UsageError, match=message):
        study_of(**(right | words))


def test_images_prepared_otherwise_than_the_federation_asks_are_refused(tmp_path: Path) -> None:
    """The message names the datasets; a federation of hospitals would leave them out."""
    study = _study(tmp_path, federation=_federation(tmp_path, image={"crop_mm": 160}))
    with pytest.raises(UsageError) as refused:
        simulate(study, tmp_path / "out", terminal=Terminal(quiet=True))
    assert "center1, center2" in refused.value.what
    assert refused.value.expected == study.federation.image
    assert not (tmp_path / "out").exists()


def test_seeds_as_people_write_them() -> None:
    """Ranges, commas and blanks."""
    assert parse_seeds("0-4") == (0, 1, 2, 3, 4)
    assert parse_seeds("7, 1 3-4") == (7, 1, 3, 4)


# ---- summary ----------------------------------------------------------------------------


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12).filter(lambda v: np.ptp(v) > 1e-6))
def test_the_interval_over_seeds_is_students(values: list[float]) -> None:
    """As scipy's one-sample t test has it."""
    found = spread(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(np.mean(values))
    assert found["ci95"] == pytest.approx([expected.low, expected.high], abs=1e-9)


@pytest.mark.parametrize(
    ("values", "shown", "begins"),
    [
        ([-0.01, 0.0, -0.02], True, "Non-inferior at the margin of 0.05"),
        ([-0.2, 0.1, 0.0], False, "Not shown"),
        ([-0.2, -0.21, -0.19], False, "Inferior by more"),
        ([-0.01], None, "No conclusion: one seed has no spread"),
        ([-0.01, None], None, "No conclusion: no figure in 1 of 2 seeds"),
    ],
)
def test_non_inferiority_goes_by_the_lower_end(values: list, shown: bool | None, begins: str) -> None:
    """The whole interval above minus the margin, and nothing less, is non-inferiority."""
    found = non_inferiority(spread(values), margin=0.05)
    assert found["shown"] is shown
    assert found["words"].startswith(begins)


def _seed(federated: float, central: float, *, pairs: dict | None = None) -> dict:
    models = {
        name: {"pooled": value, "cross_site_mean": value, "from_histograms": value + 0.001}
        for name, value in {
            "federated": federated,
            "centralised": central,
            "ensemble": 0.7,
            BEST: 0.6,
        }.items()
    }
    return {"models": models, "pairs": pairs or {}}


def test_differences_are_taken_within_a_seed() -> None:
    """The mean difference has an interval of its own, narrower than those of the models."""
    seeds = {"0": _seed(0.9, 0.91), "1": _seed(0.8, 0.81), "2": _seed(0.7, 0.71)}
    found = summarise(seeds, margin=0.05, new_patients=True, same_sites=True)
    difference = found["federated_minus"]["centralised"]["pooled"]
    assert difference["mean"] == pytest.approx(-0.01)
    assert np.ptp(difference["ci95"]) < 1e-9
    assert np.ptp(found["models"]["federated"]["pooled"]["ci95"]) > 0.1
    assert found["non_inferiority"]["shown"] is True
    assert found["estimation_error"]["worst"] == pytest.approx(0.001)


def test_counts_of_the_same_patients_add_up_over_seeds_with_new_patients_only() -> None:
    """b and c are summed where each seed has patients of its own, and withheld where they are shared."""
    seeds = {
        str(seed): _seed(0.9, 0.9, pairs={"centralised": {"n": 150, "b": b, "c": c}})
        for seed, (b, c) in enumerate([(9, 2), (8, 0)])
    }
    found = summarise(seeds, margin=0.05, new_patients=True, same_sites=True)
    pair = found["same_patients"]["centralised"]
    assert (pair["n"], pair["b"], pair["c"]) == (300, 17, 2)
    assert pair["p"] == pytest.approx(0.0013189686)
    shared = summarise(seeds, margin=0.05, new_patients=False, same_sites=True)
    assert set(shared["same_patients"]) == {"not_estimable"}


def test_what_to_know_before_a_simulation_is_quoted() -> None:
    """A mean at chance over the seeds, and how many seeds' runs have which cue; of two classes it is one AUC."""

    def of(ends: object, *cues: list[str], classes: tuple[str, ...] = ("HCC", "ICC", "META")) -> list[str]:
        return cautions(
            {
                "settings": {"federation": {"task": {"classes": classes}}},
                "summary": {"models": {"federated": {"pooled": {"mean": 0.6, "ci95": ends}}}},
                "results": {str(seed): {"cues": one} for seed, one in enumerate(cues)},
            }
        )

    assert of([0.55, 0.65], [], []) == []
    assert of({"not_estimable": "one seed has no spread"}, []) == []
    (chance,) = of([0.45, 0.75], [], [], classes=("HCC", "ICC"))
    assert chance.startswith("No better than chance")
    assert "model's AUC, 0.450 to 0.750" in chance
    (falling,) = of([0.55, 0.65], ["Still improving when it ended"], [], ["Still improving when it ended"])
    assert falling.startswith("Still improving when it ended: 2 of 3 seeds")


def test_the_document_of_results_is_what_the_script_makes() -> None:
    """docs/results.md holds the figures of the simulations beside it, and none that was written by hand."""
    root = Path(__file__).parents[2]
    script = runpy.run_path(str(root / "scripts" / "make_results.py"))
    kept = [json.loads((root / "docs" / f"{name}.json").read_text()) for name in ("results", "results-again")]
    assert (root / "docs" / "results.md").read_text() == script["document"](*kept)
    for simulation in kept:
        summary = summarise(simulation["results"], margin=0.05, new_patients=True, same_sites=True)
        assert json.loads(json.dumps(summary)) == simulation["summary"]
    assert not set(kept[0]["results"]) & set(kept[1]["results"])
