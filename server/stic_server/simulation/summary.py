"""What several seeds say together: means, t intervals, differences between models, non-inferiority.

Seeds are the replicates: each draws its own patients (or deals them anew) and its own first
weights, so the intervals hold the chance of both. All differences are paired within a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from stic_core import statistics
from stic_core.evaluation import Evaluation, as_json
from stic_core.evaluation.figures import AucFigure, paired_accuracy
from stic_server.simulation.scores import Scores, macro_auc, rights

Json: TypeAlias = Any

FEDERATED, CENTRALISED, ENSEMBLE, BEST = "federated", "centralised", "ensemble", "best site alone"

POOLED, CROSS = "pooled", "cross_site_mean"
FIGURES = (POOLED, CROSS)
"""Macro AUC over all held-out patients together, and the mean of the sites' macro AUCs."""

LEVEL = 0.95


def models_of_seed(evaluation: Evaluation, scores: Mapping[str, Scores]) -> dict[str, dict[str, Json]]:
    """Macro AUCs of each model of an evaluation, from the scores.

    Args:
        evaluation: of the seed's run.
        scores: of held-out patients, by model (a site's own under the site's name) and site.

    Returns:
        By model: `pooled`, `cross_site_mean` over the sites that have every class, `sites`, and
        `from_histograms`, which is what the federation itself makes of `pooled` without the
        scores; None where there is no figure.
    """
    out: dict[str, dict[str, Json]] = {}
    for name, found in evaluation.models.items():
        own = scores[name.removesuffix(" alone")]
        sites = {site: macro_auc({site: part}) for site, part in sorted(own.items())}
        known = [value for value in sites.values() if value is not None]
        out[name] = {
            POOLED: macro_auc(own),
            CROSS: float(np.mean(known)) if known else None,
            "sites": sites,
            "from_histograms": macro.value
            if isinstance(macro := found.pooled.auc_macro, AucFigure)
            else None,
        }
    alone = [name for name in out if name.endswith(" alone") and out[name][CROSS] is not None]
    if alone:
        # Chosen by its held-out figures, which favours it: a hospital could not choose so.
        best = max(alone, key=lambda name: out[name][CROSS])
        out[BEST] = {**out[best], "model": best}
    return out


def estimation_error(seeds: Mapping[str, Mapping[str, Json]]) -> dict[str, Json]:
    """How far the federation's figure from histograms is from that of the scores, over seeds and models."""
    errors = [
        abs(model["from_histograms"] - model[POOLED])
        for one in seeds.values()
        for name, model in one["models"].items()
        if name != BEST and model["from_histograms"] is not None and model[POOLED] is not None
    ]
    if not errors:
        return {"not_estimable": "no model has both figures"}
    return {"mean": float(np.mean(errors)), "worst": max(errors), "n": len(errors)}


def pairs_of(scores: Mapping[str, Scores]) -> dict[str, dict[str, int]]:
    """How often the federated model alone was right (b), and the other alone (c), of n patients.

    From the scores: sites would keep small counts back.
    """
    right = {name: rights(of_model) for name, of_model in scores.items()}
    own = right.pop(FEDERATED)
    return {
        name: {"n": len(own), "b": int((own & ~other).sum()), "c": int((other & ~own).sum())}
        for name, other in right.items()
    }


def spread(values: Sequence[float | None]) -> dict[str, Json]:
    """Mean over seeds with Student's t interval, which holds both ends at `LEVEL`.

    Example:
        >>> [round(end, 4) for end in spread([0.1, 0.2, 0.3])["ci95"]]
        [-0.0484, 0.4484]
        >>> spread([0.1])["ci95"]
        {'not_estimable': 'one seed has no spread'}
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        missing = len(values) - len(known)
        return {"not_estimable": f"no figure in {missing} of {len(values)} seeds"}
    mean, n = float(np.mean(known)), len(known)
    if n == 1:
        alone = {"not_estimable": "one seed has no spread"}
        return {"mean": mean, "sd": alone, "ci95": alone, "seeds": n}
    sd = float(np.std(known, ddof=1))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * sd / np.sqrt(n)
    return {"mean": mean, "sd": sd, "ci95": [float(mean - half), float(mean + half)], "seeds": n}


def summarise(
    seeds: Mapping[str, Mapping[str, Json]], *, margin: float, new_patients: bool, same_sites: bool
) -> dict[str, Json]:
    """All seeds together.

    Args:
        seeds: what each seed's file says, by seed.
        margin: of non-inferiority, AUC.
        new_patients: each seed has patients of its own, so that counts of patients add up.
        same_sites: a site's name means the same in every seed.
    """
    every = list(seeds.values())
    names = [
        name
        for name in every[0]["models"]
        if all(name in one["models"] for one in every)
        and (same_sites or name == BEST or not name.endswith(" alone"))
    ]
    models = {
        name: {figure: spread([one["models"][name][figure] for one in every]) for figure in FIGURES}
        for name in names
    }
    differences = {
        other: {
            figure: spread(
                [_minus(one["models"][FEDERATED][figure], one["models"][other][figure]) for one in every]
            )
            for figure in FIGURES
        }
        for other in (CENTRALISED, BEST, ENSEMBLE)
        if other in names
    }
    return {
        "models": models,
        "federated_minus": differences,
        "estimation_error": estimation_error(seeds),
        "non_inferiority": non_inferiority(differences[CENTRALISED][POOLED], margin=margin),
        "same_patients": _added_pairs(every, names=names)
        if new_patients
        else {"not_estimable": "the seeds share patients, whose answers must not be counted twice"},
    }


def non_inferiority(difference: Mapping[str, Json], *, margin: float) -> dict[str, Json]:
    """Whether the federated model is no worse than the centralised one by as much as the margin.

    Args:
        difference: federated minus centralised, from `spread`.
        margin: AUC, fixed beforehand.
    """
    ends = difference.get("ci95")
    if not isinstance(ends, list):
        why = difference.get("not_estimable") or difference["ci95"]["not_estimable"]
        return {"margin": margin, "shown": None, "words": f"No conclusion: {why}."}
    low, high = ends
    verdict = statistics.NonInferiority(difference["mean"], (low, high), margin=margin).verdict
    interval = f"the 95 % interval of the difference, {low:+.3f} to {high:+.3f}"
    if verdict == "non-inferior":
        words = f"Non-inferior at the margin of {margin:g}: {interval}, lies wholly above {-margin:+g}."
    elif verdict == "inferior":
        words = f"Inferior by more than the margin of {margin:g}: {interval}, lies wholly below {-margin:+g}."
    else:
        words = f"Not shown at the margin of {margin:g}: {interval}, includes {-margin:+g}."
    return {
        "margin": margin,
        "shown": verdict == "non-inferior",
        "difference": dict(difference),
        "words": words,
    }


def _added_pairs(every: Sequence[Mapping[str, Json]], *, names: Sequence[str]) -> dict[str, Json]:
    """McNemar's counts of all seeds added up, for each model that every seed compares."""
    out: dict[str, Json] = {}
    for name in every[0]["pairs"]:
        model = name if name in names else f"{name} alone"
        if model not in names or not all(name in one["pairs"] for one in every):
            continue
        n, b, c = (sum(one["pairs"][name][key] for one in every) for key in ("n", "b", "c"))
        out[model] = {"n": n} | as_json(paired_accuracy(b=b, c=c, n=n))
    return out


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
