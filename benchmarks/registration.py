"""Registration on phantoms whose true transform is known: error in mm and seconds a pair.

One line of JSON: the error over landmarks in the liver before and after, median and worst,
and the time on one thread. `--push` adds a random similarity to the phantom's own motion, to
see how far from the truth a start may lie.

    python benchmarks/registration.py --patients 60
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from scipy import ndimage

from stic_core.data.ct import AIR_HU, Grid
from stic_core.data.registration.slices import register
from stic_core.phantom.centres import CENTRES
from stic_core.phantom.patient import PhantomPatient, draw_patient
from stic_core.phantom.render import render, scene


def landmarks(patient: PhantomPatient, *, count: int = 8, inset_mm: float = 8.0) -> np.ndarray:
    """Points spread over the liver, (row, col) in pixels of the NC slice."""
    anatomy, points = patient.anatomy, []
    rng = np.random.default_rng(0)
    while len(points) < count:
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0, anatomy.liver.reach_mm)
        x, y = anatomy.liver.x + reach * np.cos(angle), anatomy.liver.y + reach * np.sin(angle)
        if min(anatomy.liver.inside(x=x, y=y), anatomy.cavity.inside(x=x, y=y)) > inset_mm:
            points.append(patient.grid.pixel(x=x, y=y))
    return np.array(points)


def pushed(hu: np.ndarray, *, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The slice after a similarity, and the matrix from its old pixels to its new ones."""
    turn = np.deg2rad(strength * rng.uniform(-6, 6))
    scale = 1 + strength * rng.uniform(-0.06, 0.06)
    linear = scale * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    middle = (np.array(hu.shape) - 1) / 2
    offset = middle - linear @ middle + strength * rng.uniform(-25, 25, 2)
    back = np.linalg.inv(linear)
    moved = ndimage.affine_transform(hu, np.column_stack([back, -back @ offset]), order=1, cval=AIR_HU)
    return moved.astype(np.float32), np.column_stack([linear, offset])


def main() -> None:
    """Draw, register, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--push", type=float, default=0.0)
    parser.add_argument("--worst", type=int, default=0, help="also list the worst pairs")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    before, after, seconds, rejected, pairs = [], [], [], 0, []
    for index in range(args.patients):
        centre = list(CENTRES.values())[index % len(CENTRES)]
        patient = draw_patient(
            centre=centre, label=("HCC", "ICC", "META")[index % 3], seed=args.seed, index=index
        )
        drawn = scene(patient)
        fixed = render(patient, "nc", drawn=drawn)
        step = patient.grid.spacing_mm
        grid = Grid(fixed.shape, (step, step))
        points = landmarks(patient)
        for phase in ("art", "pv"):
            moving, truth = render(patient, phase, drawn=drawn), patient.transform(phase)
            if args.push:
                moving, push = pushed(moving, strength=args.push, rng=rng)
                truth = np.column_stack([push[:, :2] @ truth[:, :2], push[:, :2] @ truth[:, 2] + push[:, 2]])
            right = grid.to_mm(points @ truth[:, :2].T + truth[:, 2])
            start = time.perf_counter()
            result = register(fixed, moving=moving, fixed_grid=grid, moving_grid=grid)
            seconds.append(time.perf_counter() - start)
            rejected += not result.accepted
            before.append(float(np.linalg.norm(grid.to_mm(points) - right, axis=1).mean()))
            after.append(float(np.linalg.norm(result.to_moving(grid.to_mm(points)) - right, axis=1).mean()))
            pairs.append((after[-1], f"{patient.centre.name} {index} {phase} {result.reason}"))
    for error, name in sorted(pairs, reverse=True)[: args.worst]:
        print(f"{error:.3f} mm  {name}")

    def spread(values: list[float]) -> dict[str, float]:
        return {
            "median": round(float(np.median(values)), 4),
            "p95": round(float(np.percentile(values, 95)), 4),
            "worst": round(max(values), 4),
        }

    print(
        json.dumps(
            {
                "benchmark": "registration",
                "phantom": True,
                "pairs": len(seconds),
                "push": args.push,
                "threads": 1,
                "error_mm_before": spread(before),
                "error_mm": spread(after),
                "seconds": spread(seconds),
                "rejected": rejected,
            }
        )
    )


if __name__ == "__main__":
    main()
