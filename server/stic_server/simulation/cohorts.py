"""Whose patients are simulated: phantom centres or prepared datasets, as they are or dealt out anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from stic_core.data.dataset import SUMMARY_FILE, SiteDataset, load_dataset, write_dataset
from stic_core.errors import UsageError
from stic_core.phantom import DEMO_COUNTS, FULL_COUNTS, GENERATOR_VERSION
from stic_core.phantom.prepared import write_prepared
from stic_core.tasks import Task
from stic_server.simulation.dirichlet_partition import dirichlet_partition

Datasets: TypeAlias = Mapping[str, SiteDataset]
"""By site's name."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""What is being made, what is done, and what there is to do."""

_MODELS = ("federated", "centralised", "ensemble")
_SITE_NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,31}$")


def phantom_centres(folder: Path, *, seed: int, full: bool, crop_mm: float, progress: Progress) -> Datasets:
    """The two phantom centres of one seed, from disk where they were drawn before.

    Args:
        folder: of phantom cohorts; a cohort's own folder is named after all that determines it.
        full: as many patients as the paper's centres.
        crop_mm: side of the square around the lesion.
    """
    size = "full" if full else "demo"
    home = folder / f"phantom-{GENERATOR_VERSION}-{size}-{crop_mm:g}mm-seed{seed}"
    counts = FULL_COUNTS if full else DEMO_COUNTS

    def told(done: int, total: int, *, centre: str) -> None:
        progress(f"drawing phantom patients of {centre}", done, total)

    return {
        centre: load_dataset(home / centre)
        if (home / centre / SUMMARY_FILE).exists()
        else write_prepared(
            home / centre,
            centre=centre,
            seed=seed,
            counts=counts[centre],
            crop_mm=crop_mm,
            progress=lambda done, total, centre=centre: told(done, total, centre=centre),
        )
        for centre in sorted(counts)
    }


def prepared_sites(folders: Sequence[Path]) -> Datasets:
    """Prepared datasets under the names of their folders (of the folder above, where that is `prepared`).

    Raises:
        UsageError: one dataset twice, datasets prepared in different ways, or names that do not do.
        DataError: a folder without a prepared dataset.
    """
    names = [_name(folder) for folder in folders]
    strange = [name for name in names if not _SITE_NAME.match(name) or name in _MODELS]
    if strange or len(set(names)) < len(names):
        raise UsageError(
            "unsuitable names of prepared datasets",
            got=", ".join(names),
            expected=f"distinct names of lower-case letters, digits and hyphens, none of {', '.join(_MODELS)}",
            advice="A dataset is named after its folder, or after the parent folder if that is called 'prepared'.",
        )
    found = {name: load_dataset(folder) for name, folder in zip(names, folders, strict=True)}
    if len({dataset.fingerprint for dataset in found.values()}) < len(found):
        raise UsageError(
            "a prepared dataset is given twice", advice="Its patients would be at two sites; give it once."
        )
    images = [dataset.image for dataset in found.values()]
    if any(image != images[0] for image in images):
        raise UsageError(
            "the prepared datasets' images were made with different settings",
            got="; ".join(f"{name}: {dataset.image}" for name, dataset in found.items()),
            advice="Prepare them again with the same dataset.image in site.yaml.",
        )
    return dict(sorted(found.items()))


def dealt_out(
    datasets: Datasets, folder: Path, *, task: Task, sites: int, alpha: float, seed: int
) -> Datasets:
    """All patients of a task dealt out to new sites by class; each keeps its split, and is at one site alone.

    Args:
        folder: of the new datasets.
        task: patients of other classes are left out, so that no site gets them instead of others.
        sites, alpha, seed: see `dirichlet_partition`.

    Raises:
        UsageError: see `dirichlet_partition`.
    """
    rows = [
        (name, row)
        for name, dataset in datasets.items()
        for row, label in enumerate(dataset.labels)
        if label in task.classes
    ]
    dealt = dirichlet_partition(
        [datasets[name].labels[row] for name, row in rows],
        [datasets[name].splits[row] for name, row in rows],
        sites=sites,
        alpha=alpha,
        seed=seed,
    )
    width = len(str(sites))
    return {
        f"site{number + 1:0{width}}": _write(
            folder / f"site{number + 1:0{width}}",
            datasets,
            [rows[place] for place in np.flatnonzero(dealt == number)],
        )
        for number in range(sites)
    }


def union(datasets: Datasets, folder: Path) -> SiteDataset:
    """The training and validation patients of all sites as one dataset; nobody's held-out patients."""
    rows = [
        (name, row)
        for name, dataset in sorted(datasets.items())
        for row in range(len(dataset))
        if dataset.splits[row] != "test"
    ]
    return _write(folder, datasets, rows)


def _name(folder: Path) -> str:
    path = folder.resolve()
    return path.parent.name if path.name == "prepared" else path.name


def _write(folder: Path, datasets: Datasets, rows: Sequence[tuple[str, int]]) -> SiteDataset:
    """Some patients of several datasets as one; what a killed simulation left is used."""
    if (folder / SUMMARY_FILE).exists():
        return load_dataset(folder)

    def images() -> Iterator[np.ndarray]:
        for name, row in rows:
            yield datasets[name].images[row : row + 1]

    first = datasets[rows[0][0]]
    return write_dataset(
        folder,
        images=images(),
        clinical=np.stack([datasets[name].clinical[row] for name, row in rows]),
        labels=[datasets[name].labels[row] for name, row in rows],
        splits=[datasets[name].splits[row] for name, row in rows],
        subjects=[f"{name}/{datasets[name].subjects[row]}" for name, row in rows],
        image=first.image,
        phantom=any(dataset.phantom for dataset in datasets.values()),
    )
