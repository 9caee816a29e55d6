"""The ledger of training as an operator reads it, and what a plan with noise says before it is approved."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from stic_client.cli import app
from stic_core.config import FederationConfig, PolicyConfig
from stic_core.errors import PlanRefusedError
from stic_core.privacy.training_ledger import Account, Charge, TrainingLedger
from stic_core.protocol.leaving import leaving
from stic_core.protocol.messages import RunPlan
from stic_core.protocol.plan_summary import described
from stic_core.training.private_training import check_affordable, private_work


def _account(plan: str, *, noise: float | None) -> Account:
    charge = Charge(at="2026-12-01T08:00:00.000+00:00", what="round 1", question=plan, steps=10)
    return Account(
        plan=plan * 64,
        name="stic",
        runs=("one", "two"),
        patients=("a" * 32, "b" * 32),
        sample_rate=0.25,
        noise_multiplier=noise,
        max_grad_norm=None if noise is None else 1.0,
        charges=(charge,),
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site with a budget and a ledger."""
    ledger = TrainingLedger(tmp_path / "privacy")
    for plan, noise in (("a", 2.0), ("b", 4.0), ("c", None)):
        ledger.keep(_account(plan, noise=noise))
    path = tmp_path / "site.yaml"
    path.write_text(
        "site: center1\nserver: {address: 'localhost:1'}\npolicy: {privacy_budget: {epsilon: 9, delta: 0.001}}\n"
    )
    return path


def test_the_ledger_is_a_table_with_what_is_left(site: Path) -> None:
    """A row per plan with its own cost, the total of both, and what no noise covers."""
    result = CliRunner().invoke(app, ["--site", "center1", "--config", str(site), "privacy"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    ledger = TrainingLedger(site.parent / "privacy")
    spent = ledger.epsilon(("a" * 32,), delta=1e-3)
    assert f"has spent epsilon {spent:.3g} at delta 0.001; 9 is allowed" in lines[0]
    assert f"{9 - spent:.3g} is left" in lines[0]
    rows = [line.split() for line in lines if line.startswith("2026-12-01 08:00")]
    assert sorted(row[2:9] for row in rows) == [
        ["a" * 12, "stic", "2", "2", "2", "0.25", "10"],
        ["b" * 12, "stic", "2", "2", "4", "0.25", "10"],
    ]
    outside = result.stdout[result.stdout.index("outside of this ledger") :]
    assert "training without noise" in outside
    assert "validation patients" in outside
    assert "numbers of patients" in outside


def test_a_site_without_runs_has_spent_nothing(tmp_path: Path) -> None:
    """The command says so, and that there is no budget."""
    path = tmp_path / "site.yaml"
    path.write_text("site: center1\nserver: {address: 'localhost:1'}\n")
    result = CliRunner().invoke(app, ["--site", "center1", "--config", str(path), "privacy"])
    assert result.exit_code == 0
    assert "epsilon 0 " in result.stdout
    assert "no budget" in result.stdout


def test_a_plan_says_what_its_noise_covers() -> None:
    """Before it is approved; and no exact loss of training patients leaves under it."""
    config = FederationConfig.model_validate({"training": {"privacy": {"epsilon": 3.0, "delta": 1e-4}}})
    text = dict(described(RunPlan.of(config, ())))
    assert "epsilon 3, delta 0.0001" in text["noise in training"]
    assert "own model" in text["noise in training"]
    assert "training-loss" not in leaving(RunPlan.of(config, ())).figures
    plain = RunPlan.of(FederationConfig(), ())
    assert dict(described(plain))["noise in training"].startswith("none")
    assert "training-loss" in leaving(plain).figures


def test_a_delta_that_a_patient_fits_into_is_refused() -> None:
    """With 200 patients a delta of a hundredth would allow two of them to be given away."""
    training = {"privacy": {"noise_multiplier": 2.0, "delta": 0.01}, "batch_size": 10}
    plan = RunPlan.of(FederationConfig.model_validate({"training": training, "rounds": 1}), ())
    patients, policy = tuple(map(str, range(200))), PolicyConfig()
    work = private_work(plan, patients=len(patients), policy=policy)
    with pytest.raises(PlanRefusedError, match=r"training\.privacy\.delta"):
        check_affordable(plan, work, patients=patients, policy=policy, ledger=TrainingLedger())


@pytest.mark.parametrize(("policy", "times"), [({}, 2), ({"local_only": False}, 1)])
def test_a_sites_own_model_costs_as_much_as_the_rounds(policy: dict[str, bool], times: int) -> None:
    """Where plan and policy have one; each site's sampling rate is of its own number of patients."""
    training = {"privacy": {"noise_multiplier": 2.0}, "batch_size": 10, "local_epochs": 2}
    plan = RunPlan.of(FederationConfig.model_validate({"training": training, "rounds": 7}), ())
    work = private_work(plan, patients=45, policy=PolicyConfig.model_validate(policy))
    assert work is not None
    assert work.level.sample_rate == 10 / 45
    assert work.planned.steps == 7 * 9 * times  # two epochs of 4.5 steps
    assert private_work(plan, patients=0, policy=PolicyConfig()) is None
    small = private_work(plan, patients=6, policy=PolicyConfig.model_validate(policy))
    assert small is not None
    assert (small.level.sample_rate, small.steps_per_round) == (1.0, 2)
