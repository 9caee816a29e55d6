"""How good is the federated AUC: its error against pooled scores, and its interval's coverage.

Two sites draw patients from one population; each releases an AUC and a merged histogram, as
`stic_core.evaluation` does. The last line is JSON.

    python benchmarks/federated_auc.py --repetitions 2000
"""

from __future__ import annotations

import argparse
import json

import numpy as np

from stic_core import statistics
from stic_core.privacy.score_bins import score_bins
from stic_core.statistics import Auc, Interval, NotEstimable, PooledAuc

SITES = 2


def draw(rng: np.random.Generator, *, n: int, skill: float) -> tuple[np.ndarray, np.ndarray]:
    """Margins of the first of three classes, and who has it."""
    labels = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), labels] += skill
    return statistics.margins(1.5 * logits)[:, 0], labels == 0


def binned(scores: np.ndarray, positive: np.ndarray, *, min_cell: int) -> statistics.ScoreHistogram:
    """What a site releases of the first of three classes."""
    starts = score_bins(scores, positive=positive, classes=3, min_cell=min_cell)
    return statistics.counted(scores, positive=positive, edges=statistics.EDGES, starts=starts)


def covers(interval: Interval | NotEstimable, truth: float) -> bool:
    """An interval that is not estimable covers nothing."""
    return not isinstance(interval, NotEstimable) and interval[0] <= truth <= interval[1]


def simulate(*, n: int, skill: float, min_cell: int, repetitions: int, seed: int) -> dict[str, float]:
    """One setting.

    Args:
        n: held-out patients a site.
        skill: how far the true class's logit lies above the others.
        min_cell: fewest patients in a released bin.
        repetitions: how often both sites draw their patients.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    scores, positive = draw(rng, n=400_000, skill=skill)
    population = statistics.delong(scores, positive=positive)
    assert isinstance(population, Auc)
    errors, widths, wald, logit, exact_logit = [], [], 0, 0, 0
    for _ in range(repetitions):
        sites = [draw(rng, n=n, skill=skill) for _ in range(SITES)]
        own = [statistics.delong(s, positive=y) for s, y in sites]
        found = statistics.pooled_auc(
            [[binned(s, y, min_cell=min_cell)] for s, y in sites],
            exact=[auc.value if isinstance(auc, Auc) else None for auc in own],
        )
        exact = statistics.delong(
            np.concatenate([s for s, _ in sites]), positive=np.concatenate([y for _, y in sites])
        )
        assert isinstance(found, PooledAuc)
        assert isinstance(exact, Auc)
        assert found.bounds[0] - 1e-12 <= exact.value <= found.bounds[1] + 1e-12
        errors.append(abs(found.value - exact.value))
        widths.append(found.bounds[1] - found.bounds[0])
        wald += covers(found.wald(), population.value)
        logit += covers(found.logit(), population.value)
        exact_logit += covers(exact.logit(), population.value)
    return {
        "patients_a_site": n,
        "min_cell": min_cell,
        "auc": round(population.value, 4),
        "mean_error": round(float(np.mean(errors)), 5),
        "greatest_error": round(float(np.max(errors)), 5),
        "mean_width_of_bounds": round(float(np.mean(widths)), 4),
        "coverage_wald": round(wald / repetitions, 4),
        "coverage_logit": round(logit / repetitions, 4),
        "coverage_logit_of_pooled_scores": round(exact_logit / repetitions, 4),
    }


def main() -> None:
    """Run all settings, a line each, then all of them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    results = []
    print("n a site cell    AUC   error   worst   Wald  logit pooled")
    for n, skill in ((50, 1.0), (50, 2.0), (112, 1.5), (300, 1.5)):
        for min_cell in (1, 5):
            row = simulate(
                n=n,
                skill=skill,
                min_cell=min_cell,
                repetitions=chosen.repetitions,
                seed=chosen.seed,
            )
            results.append(row)
            print(
                f"{n:8d} {min_cell:4d} {row['auc']:6.3f} {row['mean_error']:7.4f}"
                f" {row['greatest_error']:7.4f}"
                f" {row['coverage_wald']:6.3f} {row['coverage_logit']:6.3f}"
                f" {row['coverage_logit_of_pooled_scores']:6.3f}",
                flush=True,
            )
    print(json.dumps({"repetitions": chosen.repetitions, "settings": results}))


if __name__ == "__main__":
    main()
