"""How good is the federated AUC: bias, coverage of its interval, and how often there is only a range.

Sites draw patients from one population, or from populations whose scores are shifted, and each
releases what `stic_core.evaluation` releases of the first class. The truth is the AUC of the
populations together. Also measured: the stratified AUC, and slope and error of the calibration
against those of the pooled scores. Parts of the grid may be run one after the other (`--sites`);
`--out` keeps what it has of the other parts.

    python benchmarks/pooled_auc_coverage.py --repetitions 2000 --out benchmarks/results/pooled_auc_coverage.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, ndtri

from stic_core import statistics
from stic_core.privacy.score_bins import score_bins
from stic_core.statistics import Auc, Interval, NotEstimable, PooledScores, Recalibration, Scores
from stic_core.statistics.calibration import MOST_OPEN

MIN_CELL, MIN_CLASS = 5, 10
"""The default policy."""

SITES = (2, 5, 20)
PATIENTS = (10, 20, 30, 40, 100, 300)
AUCS = (0.7, 0.9, 0.97)
POPULATIONS = ("two classes", "three classes", "three classes, shifted", "three classes, AUCs kept back")

Drawn = tuple[Scores, np.ndarray]


def draw(rng: np.random.Generator, *, population: str, n: int, auc: float, shift: float) -> Drawn:
    """Scores (log odds) of the first class, and who has it: half of the patients, or a third."""
    if population == "two classes":
        distance = np.sqrt(2) * ndtri(auc)
        positive = rng.random(n) < 0.5
        return distance * (rng.normal(size=n) + distance * (positive - 0.5)), positive
    labels = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), labels] += _skill(auc)
    return statistics.margins(1.5 * logits)[:, 0] + shift, labels == 0


@cache
def _skill(auc: float) -> float:
    """How far the true class's logit lies above the others for this AUC."""
    low, high = 0.0, 4.0
    noise = np.random.default_rng(0).normal(size=(200_000, 3))
    labels = np.random.default_rng(1).integers(0, 3, len(noise))
    while high - low > 1e-3:
        middle = (low + high) / 2
        logits = noise.copy()
        logits[np.arange(len(noise)), labels] += middle
        found = statistics.delong(statistics.margins(1.5 * logits)[:, 0], positive=labels == 0)
        assert isinstance(found, Auc)
        low, high = (middle, high) if found.value < auc else (low, middle)
    return (low + high) / 2


def shifts_of(population: str, sites: int) -> Scores:
    """Each site's shift of the scores: evenly from -1 to 1 where there is any."""
    return np.linspace(-1, 1, sites) if population.endswith("shifted") else np.zeros(sites)


@cache
def truth(population: str, sites: int, auc: float) -> float:
    """The AUC of all populations together."""
    rng = np.random.default_rng(2)
    drawn = [
        draw(rng, population=population, n=500_000 // sites, auc=auc, shift=shift)
        for shift in shifts_of(population, sites)
    ]
    found = _delong(drawn)
    assert isinstance(found, Auc)
    return found.value


def _delong(drawn: Sequence[Drawn]) -> Auc | NotEstimable:
    return statistics.delong(
        np.concatenate([s for s, _ in drawn]), positive=np.concatenate([y for _, y in drawn])
    )


def released(drawn: Drawn, *, population: str) -> tuple[statistics.ScoreHistogram, Auc | None]:
    """What a site releases: bins of scores, and its AUC where there are enough patients."""
    scores, positive = drawn
    classes = 2 if population == "two classes" else 3
    starts = score_bins(scores, positive=positive, classes=classes, min_cell=MIN_CELL)
    auc = statistics.delong(scores, positive=positive)
    enough = min(positive.sum(), (~positive).sum()) >= MIN_CLASS and not population.endswith("kept back")
    return (
        statistics.counted(scores, positive=positive, edges=statistics.EDGES, starts=starts),
        auc if enough and isinstance(auc, Auc) else None,
    )


def covers(interval: Interval | NotEstimable, value: float) -> float:
    """1 or 0; not a number where there is no interval."""
    return np.nan if isinstance(interval, NotEstimable) else float(interval[0] <= value <= interval[1])


def once(
    drawn: Sequence[Drawn], *, population: str, population_auc: float, within: float
) -> dict[str, float]:
    """Figures of one repetition; not a number where one is not shown."""
    sites = [released(one, population=population) for one in drawn]
    found: dict[str, float] = {}
    whole = _delong(drawn)
    pooled = statistics.pool_scores(
        [[histogram] for histogram, _ in sites],
        exact=[None if auc is None else auc.value for _, auc in sites],
    )
    if isinstance(pooled, PooledScores) and isinstance(whole, Auc):
        low, high = pooled.bounds
        assert low - 1e-9 <= whole.value <= high + 1e-9
        found |= {"open": pooled.open, "coarse": pooled.coarse}
        if pooled.too_open is None:
            auc = pooled.auc()
            found["bias"] = auc.value - population_auc
            found["binning"] = auc.value - whole.value
            found["covered"] = covers(auc.interval(), population_auc)
            found["covered_by_scores"] = covers(whole.interval(), population_auc)
        if pooled.open_by_bins <= MOST_OPEN:
            found |= _calibration(pooled, drawn)
    own = [auc for _, auc in sites if auc is not None]
    mean = statistics.stratified(own)
    if not isinstance(mean, NotEstimable):
        found["stratified_bias"] = mean.value - within
        found["stratified_covered"] = covers(mean.logit(), within)
    return found


def _calibration(pooled: PooledScores, drawn: Sequence[Drawn]) -> dict[str, float]:
    scores, positive = np.concatenate([s for s, _ in drawn]), np.concatenate([y for _, y in drawn])
    found: dict[str, float] = {}
    binned, exact = (
        statistics.recalibration(pooled),
        statistics.logistic_fit(scores, hits=positive.astype(float), misses=(~positive).astype(float)),
    )
    if isinstance(binned, Recalibration) and isinstance(exact, Recalibration):
        found["slope_error"] = binned.slope - exact.slope
        found["slope_error_in_se"] = (binned.slope - exact.slope) / exact.slope_se
    if not isinstance(error := statistics.ece(pooled), NotEstimable):
        p = expit(scores)
        bins = np.minimum((10 * p).astype(int), 9)
        found["ece_error"] = error - np.abs(
            np.bincount(bins, weights=positive - p, minlength=10)
        ).sum() / len(p)
    return found


def simulate(*, population: str, sites: int, n: int, auc: float, repetitions: int) -> dict[str, Any]:
    """One setting: means over the repetitions in which a figure is shown."""
    population_auc, within = truth(population, sites, auc), truth(population.replace(", shifted", ""), 1, auc)
    rng = np.random.default_rng([sites, n, round(1000 * auc), POPULATIONS.index(population)])
    scores, positive = draw(rng, population=population, n=repetitions * sites * n, auc=auc, shift=0.0)
    scores = scores.reshape(repetitions, sites, n) + shifts_of(population, sites)[:, None]
    rows = [
        once(
            list(zip(*one, strict=True)), population=population, population_auc=population_auc, within=within
        )
        for one in zip(scores, positive.reshape(scores.shape), strict=True)
    ]

    def mean(key: str, digits: int = 4) -> float | None:
        values = [row[key] for row in rows if key in row and np.isfinite(row[key])]
        return round(float(np.mean(values)), digits) if values else None

    def share(key: str) -> float:
        return round(sum(key in row for row in rows) / repetitions, 4)

    biases = [row["bias"] for row in rows if "bias" in row]
    return {
        "population": population,
        "sites": sites,
        "patients_a_site": n,
        "auc": round(population_auc, 4),
        "repetitions": repetitions,
        "open": mean("open"),
        "coarse": mean("coarse"),
        "shown": share("bias"),
        "bias": mean("bias"),
        "bias_monte_carlo_error": round(float(np.std(biases) / np.sqrt(len(biases))), 4) if biases else None,
        "bias_of_binning": mean("binning"),
        "coverage": mean("covered"),
        "coverage_of_pooled_scores": mean("covered_by_scores"),
        "stratified_shown": share("stratified_bias"),
        "stratified_bias": mean("stratified_bias"),
        "stratified_coverage": mean("stratified_covered"),
        "slope_shown": share("slope_error"),
        "slope_error": mean("slope_error"),
        "slope_error_in_standard_errors": mean("slope_error_in_se", 2),
        "calibration_error_error": mean("ece_error"),
    }


def main() -> None:
    """Run the chosen part of the grid, a line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--sites", type=int, nargs="*", default=SITES)
    parser.add_argument("--patients", type=int, nargs="*", default=PATIENTS)
    parser.add_argument("--aucs", type=float, nargs="*", default=AUCS)
    parser.add_argument("--populations", nargs="*", default=POPULATIONS, choices=POPULATIONS)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    print("sites    n   AUC   open  shown    bias  cover (scores) | stratified: shown bias cover | slope")
    for population in chosen.populations:
        print(population)
        for sites in chosen.sites:
            for n in chosen.patients:
                for auc in chosen.aucs:
                    row = simulate(
                        population=population, sites=sites, n=n, auc=auc, repetitions=chosen.repetitions
                    )
                    print(
                        f"{sites:5d} {n:4d} {row['auc']:.3f}",
                        *(
                            f"{'-' if value is None else format(value, '.4f'):>7}"
                            for key, value in row.items()
                            if key not in {"population", "sites", "patients_a_site", "auc", "repetitions"}
                        ),
                        flush=True,
                    )
                    if chosen.out:
                        keep(row, chosen.out)


def keep(row: dict[str, Any], path: Path) -> None:
    """Put a setting into the file, in the place of an earlier run of it."""
    key = ("population", "sites", "patients_a_site", "auc")
    rows = json.loads(path.read_text())["settings"] if path.exists() else []
    rows = [old for old in rows if any(old[name] != row[name] for name in key)] + [row]
    rows.sort(key=lambda one: (POPULATIONS.index(one["population"]), *(one[name] for name in key[1:])))
    path.write_text(
        json.dumps({"min_cell": MIN_CELL, "min_class": MIN_CLASS, "settings": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
