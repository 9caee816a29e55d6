"""`stic-client privacy-audit`: a memoriser is found, a stranger is not, and only what may leave is released."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from stic_client.cli import app
from stic_client.participation.final_models import Expected, FinalModels
from stic_client.participation.looks_summary import looks_in_words
from stic_client.privacy_audit.audit import PAGE_FILE, RESULT_FILE, audit_model
from stic_client.privacy_audit.outcome import AuditOutcome
from stic_client.privacy_audit.shadows import halves
from stic_client.privacy_audit.wording import described, verdicts
from stic_core.config import FederationConfig, ModelConfig, PolicyConfig, SiteConfig, TrainingConfig
from stic_core.data.dataset import load_dataset, write_dataset
from stic_core.errors import DataError, PlanRefusedError, UsageError
from stic_core.models.parameters import get_flat, trainable_specs
from stic_core.models.saved import read_model, write_model
from stic_core.privacy.audit_release import ReleasedAudit, latest_release
from stic_core.privacy.looks import HeldOutLooks, patients_of
from stic_core.privacy.membership import Attack
from stic_core.protocol.messages import RunPlan
from stic_core.statistics import NotEstimable, Suppressed
from stic_core.tasks import TASKS
from stic_core.training.setup import ComputeConfig, assemble
from stic_core.training.trainer import Trainer
from support.federation_kit import site_config, write_site_dataset

TASK, MODEL = TASKS["malignant"], ModelConfig(backbone="tiny")
TRAINING = TrainingConfig(views=0, batch_size=8)
ALLOWED = {"release": (*PolicyConfig().release, "privacy-audit")}
RUN = "20261201-101500-liver"


def _site(folder: Path, *, train: int, test: int) -> SiteConfig:
    folder.mkdir()
    write_site_dataset(folder / "prepared", seed=3, counts={"train": train, "val": 3, "test": test})
    return site_config(folder, site="center1")


def _noise(folder: Path, *, train: int, test: int) -> None:
    """A dataset whose images say nothing of the class, so that a model can only learn it by heart."""
    write_site_dataset(folder, seed=3, counts={"train": train, "val": 3, "test": test})
    found = load_dataset(folder)
    images = np.random.default_rng(1).integers(0, 256, found.images.shape, dtype=np.uint8)
    write_dataset(
        folder,
        images=[images],
        clinical=found.clinical,
        labels=found.labels,
        splits=found.splits,
        subjects=found.subjects,
        image=found.image,
        phantom=True,
    )


def _model(config: SiteConfig, name: str, *, epochs: int) -> Path:
    """A model's folder: fresh, or trained for so long that it knows its training patients by heart."""
    setup = assemble(
        load_dataset(config.dataset.prepared),
        model=MODEL,
        training=TRAINING,
        task=TASK,
        seed=1,
        compute=ComputeConfig(torch.device("cpu"), weights=config.backbone_weights["tiny"]),
    )
    if epochs:
        Trainer(setup.module, setup.batches["train"], config=TRAINING, seed=[1], device=setup.device).run(
            epochs
        )
    folder = config.models / name
    write_model(
        folder,
        get_flat(setup.module),
        tensors=trainable_specs(setup.module),
        task=TASK,
        model=MODEL,
        image=load_dataset(config.dataset.prepared).image,
        backbone_digest=setup.backbone_digest,
        run_id=name,
        phantom=True,
    )
    plan = RunPlan.of(
        FederationConfig(model=MODEL, training=TRAINING, rounds=1), trainable_specs(setup.module)
    )
    FinalModels(config.models).expect(
        name,
        Expected(
            plan=plan,
            backbone_digest=setup.backbone_digest,
            phantom=True,
            fingerprint=load_dataset(config.dataset.prepared).fingerprint,
        ),
    )
    return folder


def _with(config: SiteConfig, **policy: object) -> SiteConfig:
    return config.model_copy(update={"policy": PolicyConfig.model_validate(policy)})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    """A site with 36 training and 24 held-out patients; a memoriser of the first ones, and a fresh model."""
    config = _site(tmp_path_factory.mktemp("audit") / "site", train=36, test=24)
    _noise(config.dataset.prepared, train=36, test=24)
    _model(config, RUN, epochs=60)
    _model(config, "fresh", epochs=0)
    return config


@pytest.fixture(scope="module")
def memoriser(site: SiteConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditOutcome, Path]:
    """The audit of the memoriser, and where it was written."""
    out = tmp_path_factory.mktemp("out")
    return audit_model(site, model=site.models / RUN, out=out, shadow_models=4), out


def test_a_memoriser_is_found_and_told(memoriser: tuple[AuditOutcome, Path]) -> None:
    """Both attacks and the group's difference are far from chance, and the lines and the page say yes."""
    outcome, out = memoriser
    for found in (outcome.loss, outcome.likelihood_ratio):
        assert isinstance(found, Attack)
        assert found.within.value > 0.75
        assert found.excess > 0.2
        assert found.p < 0.01
        assert isinstance(found.true_positives, NotEstimable)
    assert not isinstance(outcome.site_known, NotEstimable)
    assert outcome.site_known.p < 0.01
    assert [verdict.short for verdict in verdicts(outcome)] == ["yes", "yes"]
    assert not outcome.notes
    page = (out / PAGE_FILE).read_text()
    assert page.count('class="short">Yes.') == 2
    assert "http" not in page.replace("http-equiv", "")
    assert (out / PAGE_FILE).stat().st_mode & 0o777 == 0o600
    written = json.loads((out / RESULT_FILE).read_text())
    assert isinstance(outcome.loss, Attack)
    assert written["loss"]["auc"]["value"] == outcome.loss.auc.value
    assert (written["train"], written["held_out"]) == (36, 24)
    assert not re.search(r"P3-\d", page + json.dumps(written))  # pseudonyms


def test_a_model_that_saw_nobody_is_cleared(site: SiteConfig, tmp_path: Path) -> None:
    """Fresh weights know no patient; with 60 patients that is not called a no, but too few to tell."""
    outcome = audit_model(site, model=site.models / "fresh", out=tmp_path, shadow_models=0)
    assert isinstance(outcome.loss, Attack)
    assert outcome.loss.p > 0.05
    assert isinstance(outcome.likelihood_ratio, NotEstimable)
    assert [verdict.short for verdict in verdicts(outcome)] == ["too few to tell", "too few to tell"]
    assert not HeldOutLooks(site.held_out).at(patients_of(load_dataset(site.dataset.prepared).subjects))


def test_the_same_audit_twice_gives_the_same_figures(
    site: SiteConfig, memoriser: tuple[AuditOutcome, Path], tmp_path: Path
) -> None:
    """Seeds follow from model and dataset, so that repeating an audit tells nothing more."""
    again = audit_model(site, model=site.models / RUN, out=tmp_path, shadow_models=4)
    assert again.document() | {"made": ""} == memoriser[0].document() | {"made": ""}


def test_the_smallest_hospital_gets_words_instead_of_zeros(tmp_path: Path) -> None:
    """Six training patients and three held-out ones: an answer, without a rate that three patients cannot show."""
    config = _site(tmp_path / "site", train=6, test=3)
    model = _model(config, RUN, epochs=5)
    outcome = audit_model(config, model=model, out=tmp_path / "out", shadow_models=2)
    text = "\n".join(described(outcome))
    assert "needs 100 held-out patients: of 3, one is already 33%" in text
    assert "6 training and 3 held-out patients" in text
    assert "note:" not in text


def test_nobody_held_out_is_said(tmp_path: Path) -> None:
    """A site without held-out patients of the task has nothing to compare."""
    config = _site(tmp_path / "site", train=6, test=0)
    with pytest.raises(DataError, match="6 training and 0 held-out"):
        audit_model(config, model=_model(config, RUN, epochs=0), out=tmp_path / "out")


@pytest.mark.parametrize("odd", [0, 1])
def test_halves_are_halves_of_every_stratum(odd: int) -> None:
    """Each patient is in one of two shadow models, and each has half of every class, give or take one."""
    strata = np.repeat([0, 1, 2], [6 + odd, 8 + odd, 10])
    inside = halves(strata, pairs=5, rng=np.random.default_rng(0))
    assert (inside[::2] ^ inside[1::2]).all()
    for stratum in range(3):
        rows = strata == stratum
        assert (abs(2 * inside[:, rows].sum(axis=1) - rows.sum()) <= 1).all()
    assert (abs(2 * inside.sum(axis=1) - len(strata)) <= 1).all()


# ---- release --------------------------------------------------------------------------------


def test_nothing_is_released_by_default(site: SiteConfig, tmp_path: Path) -> None:
    """The policy does not list the audit: a release is refused before anything is computed."""
    assert "privacy-audit" not in site.policy.release
    with pytest.raises(UsageError, match="policy does not release"):
        audit_model(site, model=site.models / RUN, out=tmp_path, release=True)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def allowed(site: SiteConfig, tmp_path: Path) -> SiteConfig:
    """The site with a policy that lets audits leave, and with a ledger of its own."""
    return _with(site, **ALLOWED).model_copy(update={"held_out": tmp_path / "held-out"})


def _held_out(config: SiteConfig) -> tuple[str, ...]:
    dataset = load_dataset(config.dataset.prepared)
    return patients_of(dataset.subjects[row] for row in dataset.indices("test", TASK))


def test_a_release_is_a_look_of_two_decimals_and_told_again_unchanged(
    allowed: SiteConfig, tmp_path: Path
) -> None:
    """It is in the ledger before it leaves, counts against the budget, and another audit does not change it."""
    outcome = audit_model(
        allowed, model=allowed.models / RUN, out=tmp_path / "out", shadow_models=2, release=True
    )
    released = outcome.released
    assert released is not None
    assert isinstance(outcome.loss, Attack)
    assert not isinstance(released.loss, NotEstimable | Suppressed)
    assert released.loss.auc == round(outcome.loss.within.value, 2)
    ledger = HeldOutLooks(allowed.held_out)
    assert len(ledger.at(_held_out(allowed))) == 1
    assert latest_release(ledger, held_out=_held_out(allowed), policy=allowed.policy) == released
    assert latest_release(ledger, held_out=_held_out(allowed), policy=PolicyConfig()) is None
    assert "privacy audit: three figures" in looks_in_words(allowed.held_out, allowed=40)
    again = audit_model(
        allowed, model=allowed.models / RUN, out=tmp_path / "out", shadow_models=0, release=True
    )
    assert again.released == released
    assert len(HeldOutLooks(allowed.held_out).at(_held_out(allowed))) == 1


def test_a_release_beyond_the_budget_is_refused(allowed: SiteConfig, tmp_path: Path) -> None:
    """The held-out patients of one budget: a second model's audit is one look too many."""
    config = allowed.model_copy(update={"policy": allowed.policy.model_copy(update={"held_out_models": 1})})
    audit_model(config, model=config.models / RUN, out=tmp_path / "out", shadow_models=0, release=True)
    with pytest.raises(PlanRefusedError, match="one more model"):
        audit_model(
            config, model=config.models / "fresh", out=tmp_path / "out", shadow_models=0, release=True
        )


def test_few_patients_release_no_figure(tmp_path: Path) -> None:
    """Below min_class of either kind every figure is suppressed, and the report will say so."""
    config = _with(_site(tmp_path / "site", train=12, test=6), **ALLOWED)
    outcome = audit_model(
        config, model=_model(config, RUN, epochs=0), out=tmp_path / "out", shadow_models=0, release=True
    )
    assert outcome.released is not None
    figures = (outcome.released.loss, outcome.released.likelihood_ratio, outcome.released.site)
    assert all(figure == Suppressed("fewer than 10 held-out patients") for figure in figures)
    assert "0 of three figures" in described(outcome)[-1]


def test_nearly_the_same_patients_are_not_released_twice(tmp_path: Path) -> None:
    """One held-out patient more, and the difference of two releases would be about one patient."""
    config = _with(_site(tmp_path / "site", train=15, test=12), **ALLOWED)
    model = _model(config, RUN, epochs=0)
    audit_model(config, model=model, out=tmp_path / "out", shadow_models=0, release=True)
    write_site_dataset(config.dataset.prepared, seed=3, counts={"train": 15, "val": 3, "test": 13})
    _model(config, RUN, epochs=0)
    with pytest.raises(PlanRefusedError, match="differ from an earlier release's by 1"):
        audit_model(config, model=model, out=tmp_path / "out", shadow_models=0, release=True)


def test_a_dataset_that_changed_is_noted_and_not_released(tmp_path: Path) -> None:
    """Who is a training patient now may not have been one in the run."""
    config = _with(_site(tmp_path / "site", train=15, test=12), **ALLOWED)
    model = _model(config, RUN, epochs=0)
    write_site_dataset(config.dataset.prepared, seed=4, counts={"train": 15, "val": 3, "test": 12})
    outcome = audit_model(config, model=model, out=tmp_path / "out", shadow_models=0)
    assert "prepared anew" in outcome.notes[0]
    with pytest.raises(UsageError, match="cannot be released"):
        audit_model(config, model=model, out=tmp_path / "out", shadow_models=0, release=True)


def test_a_model_of_an_unknown_run_is_noted(site: SiteConfig, tmp_path: Path) -> None:
    """Without the run's record nobody here can say who its training patients were."""
    config = site.model_copy(update={"models": tmp_path / "none"})
    outcome = audit_model(config, model=site.models / "fresh", out=tmp_path, shadow_models=0)
    assert "no record of the run" in outcome.notes[0]


def test_a_released_audit_reads_back(allowed: SiteConfig, tmp_path: Path) -> None:
    """What the ledger holds is what a message carries."""
    outcome = audit_model(
        allowed, model=allowed.models / RUN, out=tmp_path / "out", shadow_models=0, release=True
    )
    assert outcome.released is not None
    assert ReleasedAudit.model_validate_json(outcome.released.model_dump_json()) == outcome.released


# ---- command --------------------------------------------------------------------------------


def test_the_command(site: SiteConfig, tmp_path: Path) -> None:
    """A run's id names the model; the answer is on stdout, and both files are named."""
    path = tmp_path / "site.yaml"
    path.write_text(json.dumps(site.model_dump(mode="json", exclude_none=True)))
    result = CliRunner().invoke(
        app,
        [
            *("--site", "center1", "--config", str(path), "privacy-audit", "--model", RUN),
            *("--shadow-models", "2", "--out", str(tmp_path / "out")),
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0, result.output
    assert (
        "Can this model be used to tell whether a patient was in the training set?\n  yes:" in result.stdout
    )
    assert str(tmp_path / "out" / PAGE_FILE) in result.stdout
    assert read_model(site.models / RUN).description.digest[:12] in (tmp_path / "out" / PAGE_FILE).read_text()
