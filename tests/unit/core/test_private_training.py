"""Noisy training by itself: the accountant, the random numbers, a patient's bound, the noise, the ledger."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from opacus.accountants import RDPAccountant
from scipy import integrate, stats

from stic_core.config import FederationConfig, ModelConfig, PrivacyBudget, TrainingConfig
from stic_core.errors import ConfigError, DataError, PlanRefusedError
from stic_core.models.stic import NaiveHead, STICHead, build_head
from stic_core.privacy.accounting import NoiseLevel, NoisySteps, epsilon_of, noise_for
from stic_core.privacy.keyed_random import KeyedRandom, site_secret
from stic_core.privacy.training_ledger import Account, Charge, TrainingLedger
from stic_core.training.batches import FeatureBatches
from stic_core.training.noisy_sum import MARGIN, grid_step, noisy_sum
from stic_core.training.objectives import CrossEntropy
from stic_core.training.private_gradients import PrivateGradients, clipped_sum

CPU = torch.device("cpu")
SECRET = bytes(range(32))
CHANNELS, GRID = 4, 3


def _patients(count: int, *, views: int = 3, images: int = 3, seed: int = 0) -> FeatureBatches:
    rng = np.random.default_rng(seed)
    return FeatureBatches(
        tuple(
            rng.normal(size=(count, images, CHANNELS, GRID, GRID)).astype(np.float16) for _ in range(views)
        ),
        (rng.random((count, 20)) < 0.3).astype(np.float32),
        rng.integers(0, 3, count),
    )


def _head(*, naive: bool = False) -> STICHead | NaiveHead:
    if naive:
        return NaiveHead(channels=CHANNELS, classes=3, clinical=True, grid=GRID)
    return build_head(channels=CHANNELS, classes=3, seed=1, grid=GRID)


def _objective(head: STICHead | NaiveHead, patients: FeatureBatches, **training: object) -> CrossEntropy:
    config = TrainingConfig.model_validate(training)
    return CrossEntropy(head, patients.labels, config=config, device=CPU)


def _sum_of(
    head: STICHead | NaiveHead, patients: FeatureBatches, rows: list[int], *, bound: float
) -> np.ndarray:
    chosen = np.array(rows)
    lot = patients.lot(chosen, views=np.zeros(len(rows), dtype=np.int64), device=CPU)
    clipped_sum(head, lot, objective=_objective(head, patients), bound=bound)
    grads = [parameter.grad for parameter in head.parameters()]
    return torch.cat([grad.flatten() for grad in grads if grad is not None]).double().numpy()


# ---- the accountant ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "history",
    [
        [(4.0, 0.01, 10_000)],
        [(0.8, 0.2, 20)],
        [(1.9, 1 / 3, 12)],
        [(10.0, 1.0, 100)],
        [(2.0, 0.2, 100), (5.0, 1.0, 20)],
    ],
)
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_the_accountant_agrees_with_opacus(history: list[tuple[float, float, int]], delta: float) -> None:
    """Over several mechanisms together, to 1 %."""
    theirs = RDPAccountant()
    theirs.history = list(history)
    ours = epsilon_of([NoisySteps(*one) for one in history], delta=delta)
    assert ours == pytest.approx(theirs.get_epsilon(delta), rel=0.01)


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(1.1, 0.05, 300), (3.0, 0.4, 50)])
def test_the_accountant_agrees_with_the_divergence_as_an_integral(
    sigma: float, rate: float, steps: int
) -> None:
    """The Renyi divergence of the mixture from the Gaussian, integrated numerically at each order (to 1 %)."""
    delta, epsilons = 1e-5, []
    for order in range(2, 40):

        def value(x: float, order: int = order) -> float:
            tilt = (2 * x - 1) / (2 * sigma**2)
            log_ratio = np.logaddexp(math.log(1 - rate), math.log(rate) + tilt)
            return float(np.exp(stats.norm.logpdf(x, scale=sigma) + order * log_ratio))

        # The mass lies near the order (the mean of the tilted Gaussian), and at 0.
        moment, _ = integrate.quad(
            value, -12 * sigma, order + 12 * sigma, points=[0.0, 1.0, order], limit=500
        )
        divergence = steps * math.log(moment) / (order - 1)
        epsilons.append(divergence + math.log(1 - 1 / order) - math.log(delta * order) / (order - 1))
    assert epsilon_of([NoisySteps(sigma, rate, steps)], delta=delta) == pytest.approx(min(epsilons), rel=0.01)


def test_the_noise_for_an_epsilon_is_just_enough() -> None:
    """It costs no more than asked, and 1 % less noise would."""
    noise = noise_for(2.0, delta=1e-5, sample_rate=0.1, steps=100)
    assert epsilon_of([NoisySteps(noise, 0.1, 100)], delta=1e-5) <= 2.0
    assert epsilon_of([NoisySteps(0.99 * noise, 0.1, 100)], delta=1e-5) > 2.0
    with pytest.raises(ConfigError):
        noise_for(1e-9, delta=1e-9, sample_rate=1.0, steps=1000)


# ---- random numbers ---------------------------------------------------------------------


def test_random_numbers_are_of_their_key_and_their_distribution() -> None:
    """One label repeats and another does not; uniform and normal by a Kolmogorov-Smirnov test."""
    one, again = (KeyedRandom(SECRET, label="a").normals(20_001) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    other = KeyedRandom(SECRET, label="b").normals(20_001)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    assert stats.kstest(one, "norm").pvalue > 1e-3
    assert stats.kstest(KeyedRandom(SECRET, label="c").uniforms(20_000), "uniform").pvalue > 1e-3


def test_a_site_keeps_its_secret(tmp_path: Path) -> None:
    """It is made once, private, and a damaged one is refused."""
    path = tmp_path / "privacy" / "secret"
    first = site_secret(path)
    assert site_secret(path) == first
    assert len(first) == 32
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b"short")
    with pytest.raises(DataError):
        site_secret(path)


def test_noise_has_its_deviation_and_lies_on_the_grid() -> None:
    """The noisy sum is the rounded sum and noise of the stated deviation; its last bits do not tell the sum."""
    level = NoiseLevel(sample_rate=0.5, noise_multiplier=2.5, max_grad_norm=0.3)
    total = torch.linspace(-1, 1, 200_000)
    noisy = noisy_sum(total, level=level, random=KeyedRandom(SECRET, label="n"))
    off = (noisy - total.double()).numpy()
    assert off.std() == pytest.approx(2.5 * 0.3, rel=0.01)
    assert abs(off.mean()) < 5 * 2.5 * 0.3 / math.sqrt(200_000)
    units = noisy.numpy() / grid_step(0.3)
    np.testing.assert_array_equal(units, np.round(units))


# ---- a patient's part -------------------------------------------------------------------


@pytest.mark.parametrize("naive", [False, True])
def test_gradients_per_patient_are_those_of_each_patient_alone(naive: bool) -> None:
    """Against one backward pass per patient, cut by hand: convolution, GRU and dense layers."""
    patients, head, bound = _patients(20, images=1 if naive else 3), _head(naive=naive), 0.4
    want = 0.0
    for row in range(20):
        head.zero_grad()
        lot = patients.lot(np.array([row]), views=np.array([0]), device=CPU)
        objective = _objective(head, patients)
        objective.loss(head(*lot[:2]), lot[2]).backward()
        found = [one.grad for one in head.parameters()]
        alone = torch.cat([grad.flatten() for grad in found if grad is not None]).double().numpy()
        want += alone * min(1.0, bound * (1 - MARGIN) / np.linalg.norm(alone))
    got = _sum_of(head, patients, list(range(20)), bound=bound)
    np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e18])
def test_one_patient_changes_the_sum_by_the_bound_at_most(scale: float) -> None:
    """Also under weights that a server made to have huge gradients, or none that are finite."""
    patients, head, bound = _patients(18), _head(), 0.05
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(scale)
    everyone = _sum_of(head, patients, list(range(18)), bound=bound)
    assert np.isfinite(everyone).all()
    rounding = math.sqrt(everyone.size) * grid_step(bound)
    for left_out in range(18):
        rest = [row for row in range(18) if row != left_out]
        without = _sum_of(head, patients, rest, bound=bound)
        assert np.linalg.norm(everyone - without) + rounding <= bound


def test_a_lot_is_drawn_by_patients_not_by_views() -> None:
    """Each patient takes part with the sampling rate, in one view; the views come up alike often."""
    patients = _patients(50, views=4)
    level = NoiseLevel(sample_rate=0.3, noise_multiplier=1.0, max_grad_norm=1.0)
    head = _head()
    gradients = PrivateGradients(
        head,
        patients,
        objective=_objective(head, patients),
        level=level,
        secret=SECRET,
        label="d",
        device=CPU,
    )
    lots = [gradients.draw() for _ in range(400)]
    assert all(len(np.unique(chosen)) == len(chosen) for chosen, _ in lots)
    sizes = [len(chosen) for chosen, _ in lots]
    assert np.mean(sizes) == pytest.approx(15, abs=1)
    assert np.var(sizes) == pytest.approx(50 * 0.3 * 0.7, rel=0.3)  # independent of each other: binomial
    counts = np.bincount(np.concatenate([views for _, views in lots]), minlength=4)
    assert counts.min() > 0.2 * counts.sum()


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_an_empty_lot_still_has_noise_over_the_expected_size(l2: float) -> None:
    """The divisor is the expected number of patients; a penalty is added after the noise."""
    patients, head = _patients(10, images=1), _head(naive=True)
    level = NoiseLevel(sample_rate=1e-9, noise_multiplier=2.0, max_grad_norm=0.5)
    gradients = PrivateGradients(
        head,
        patients,
        objective=_objective(head, patients, l2=l2),
        level=level,
        secret=SECRET,
        label="e",
        device=CPU,
    )
    _, count = next(gradients.epoch())
    assert count == 0
    first = head.first.weight.grad
    assert first is not None
    assert float(first.std()) == pytest.approx(2.0 * 0.5 / (1e-9 * 10), rel=0.05)


def test_a_step_with_noise_leaves_no_trace_on_the_module() -> None:
    """Opacus' hooks are gone afterwards: state names, shapes and a plain step are as before."""
    patients, head = _patients(8), _head()
    names = list(head.state_dict())
    _sum_of(head, patients, [0, 1, 2], bound=1.0)
    assert list(head.state_dict()) == names
    assert not any(hasattr(parameter, "grad_sample") for parameter in head.parameters())
    lot = patients.lot(np.arange(4), views=np.zeros(4, dtype=np.int64), device=CPU)
    found = []
    for one in (head, _head()):
        one.zero_grad()
        _objective(one, patients).loss(one(*lot[:2]), lot[2]).backward()
        found.append([parameter.grad for parameter in one.parameters()])
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert torch.equal(a, b)


# ---- configuration ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"privacy": {"epsilon": 1.0}, "class_balanced": True}}, "class_balanced"),
        (
            {"training": {"privacy": {"epsilon": 1.0}}, "model": {"backbone": "tiny", "trainable_blocks": 1}},
            "trainable_blocks",
        ),
        ({"training": {"privacy": {"epsilon": 1.0, "noise_multiplier": 1.0}}}, "either epsilon or noise"),
        ({"training": {"privacy": {}}}, "either epsilon or noise"),
    ],
)
def test_what_does_not_go_with_noise_is_refused_in_the_configuration(
    changes: dict[str, object], words: str
) -> None:
    """With what to do about it."""
    with pytest.raises(ValueError, match=words):
        FederationConfig.model_validate(changes)


def test_a_plan_without_noise_has_the_hash_that_it_had() -> None:
    """Hospitals approved it before there was noise; its hash was computed by the version before."""
    from stic_core.protocol.messages import RunPlan

    config = FederationConfig(model=ModelConfig(backbone="tiny"))
    plan = RunPlan.of(config, ())
    assert plan.digest == "3ea39b4926354664941db9e11700770fa9ff5b34822053b24e14bce24138e680"
    noisy = TrainingConfig.model_validate({"privacy": {"epsilon": 1.0}})
    assert RunPlan.of(config.model_copy(update={"training": noisy}), ()).digest != plan.digest


# ---- the ledger -------------------------------------------------------------------------

BOUND = (1e9, 1e-3)


def _account(patients: str, *, plan: str = "p", noise: float | None = 2.0) -> Account:
    return Account(
        plan=plan,
        name="test",
        runs=("run",),
        patients=tuple(patients),
        sample_rate=0.5,
        noise_multiplier=noise,
        max_grad_norm=1.0,
    )


def _charge(question: str, *, steps: int = 10) -> Charge:
    return Charge(at="2026-12-01T00:00:00.000+00:00", what="round 1", question=question, steps=steps)


def _spend(ledger: TrainingLedger, account: Account, question: str, **options: object) -> Charge:
    budget = options.get("budget")
    assert budget is None or isinstance(budget, PrivacyBudget)
    return ledger.charge(account, _charge(question), bound=BOUND, budget=budget)


def test_patients_spend_what_they_were_in(tmp_path: Path) -> None:
    """By patient, whichever way the dataset was prepared: overlap adds up, a removed patient gives nothing back."""
    ledger = TrainingLedger(tmp_path)
    _spend(ledger, _account("abcd"), "1")
    _spend(ledger, _account("cde", plan="q"), "2")
    one, two = (epsilon_of([NoisySteps(2.0, 0.5, steps)], delta=1e-3) for steps in (10, 20))
    kept = TrainingLedger(tmp_path)
    assert kept.epsilon("ab", delta=1e-3) == pytest.approx(one)
    assert kept.epsilon("abc", delta=1e-3) == pytest.approx(two)
    assert kept.epsilon("ez", delta=1e-3) == pytest.approx(one)
    assert kept.epsilon("z", delta=1e-3) == 0
    assert two < 2 * one  # composed, not added


def test_a_budget_is_kept_over_processes(tmp_path: Path) -> None:
    """What does not fit is refused with what is left, and not charged."""
    budget = PrivacyBudget(epsilon=4.0, delta=1e-3)
    _spend(TrainingLedger(tmp_path), _account("abc"), "1", budget=budget)
    ledger = TrainingLedger(tmp_path)
    spent = TrainingLedger(tmp_path).epsilon("c", delta=1e-3)
    with pytest.raises(PlanRefusedError) as refused:
        ledger.charge(_account("cd", plan="q"), _charge("1", steps=1000), bound=BOUND, budget=budget)
    assert f"spent {spent:.3g}, left {4 - spent:.3g}" in str(refused.value)
    assert TrainingLedger(tmp_path).epsilon("c", delta=1e-3) == spent


def test_a_plan_is_bounded_over_its_runs(tmp_path: Path) -> None:
    """A new question under the same plan counts against what the plan states, whatever the run or the patients."""
    bound = (epsilon_of([NoisySteps(2.0, 0.5, 10)], delta=1e-3), 1e-3)
    ledger = TrainingLedger(tmp_path)
    ledger.charge(_account("ab"), _charge("1"), bound=bound, budget=None)
    assert ledger.charge(_account("ab"), _charge("1"), bound=bound, budget=None).question == "1"
    for patients in ("ab", "bc"):
        with pytest.raises(PlanRefusedError):
            ledger.charge(_account(patients), _charge("2"), bound=bound, budget=None)


def test_an_answer_is_written_down_once(tmp_path: Path) -> None:
    """The same answer may leave again, another one not."""
    ledger = TrainingLedger(tmp_path)
    account = _account("ab")
    charge = _spend(ledger, account, "1")
    assert ledger.answered(account, charge, "x")
    again = TrainingLedger(tmp_path)
    assert again.answered(account, charge, "x")
    assert not again.answered(account, charge, "y")


def test_a_ledger_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """It is never taken for an empty one."""
    _spend(TrainingLedger(tmp_path), _account("ab"), "1")
    (path,) = tmp_path.glob("*.json")
    path.write_text("[]")
    with pytest.raises(DataError):
        TrainingLedger(tmp_path)
