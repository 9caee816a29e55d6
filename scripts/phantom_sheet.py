"""Write a contact sheet of phantom patients: rows are patients by class, columns NC, ART, PV.

python scripts/phantom_sheet.py --out sheet.png --centre center1 --per-class 2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from stic_core.data.ct import PHASES, crop, window
from stic_core.phantom import CENTRES, draw_patient, render, scene


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--centre", default="center1", choices=sorted(CENTRES))
    parser.add_argument("--labels", default="HCC,ICC,META,BENIGN")
    parser.add_argument("--per-class", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="index of the first patient")
    parser.add_argument("--crop-mm", type=float, help="show this square around the largest lesion")
    arguments = parser.parse_args()

    labels = [label for label in arguments.labels.split(",") for _ in range(arguments.per_class)]
    figure, axes = plt.subplots(
        len(labels), 3, figsize=(9.6, 3.25 * len(labels) + 0.5), layout="constrained", squeeze=False
    )
    figure.suptitle(f"PHANTOM, {arguments.centre}, seed {arguments.seed}: no patient (W400 L40)")
    for number, label in enumerate(labels):
        patient = draw_patient(
            centre=CENTRES[arguments.centre], label=label, seed=arguments.seed, index=arguments.first + number
        )
        drawn = scene(patient)
        for axis, phase in zip(axes[number], PHASES, strict=True):
            image = render(patient, phase, drawn=drawn)
            if arguments.crop_mm:
                spacing = patient.grid.pixel_mm
                place = patient.lesion_pixel(phase)
                image = crop(image, centre=place, side_mm=arguments.crop_mm, spacing_mm=spacing)
            axis.imshow(window(image), cmap="gray", vmin=0, vmax=255)
            lesion = patient.lesions[0]
            signs = [lesion.arterial, *["washout"] * lesion.washout, *["cirrhosis"] * patient.host.cirrhosis]
            size = f"{lesion.diameter_mm:.0f} mm x{len(patient.lesions)}"
            axis.set_title(f"{label} {phase.upper()}  {size}  {', '.join(signs)}", fontsize=7)
            axis.axis("off")
    figure.savefig(arguments.out, dpi=100)


if __name__ == "__main__":
    main()
