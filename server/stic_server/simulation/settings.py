"""What is simulated, as it is registered: patients, their distribution, seeds, and the federation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stic_core.config import FederationConfig, PolicyConfig
from stic_core.errors import UsageError
from stic_core.phantom import GENERATOR_VERSION
from stic_server.simulation.cohorts import Datasets

POLICY = PolicyConfig()
"""Of every site: what hospitals release where they change nothing."""


@dataclass(frozen=True)
class SimulationConfig:
    """What is simulated.

    Args:
        federation: model, training and rounds; its seed and its folder of runs are each seed's own.
        seeds: of phantoms, of dealing, and of training.
        prepared: folders of prepared datasets; none for the two phantom centres.
        full: phantom centres of the paper's size.
        split: sites as they are, or dealt out by class.
        sites, alpha: of the dealing.
        cohorts: where drawn phantoms and their features are kept for further simulations; None
            keeps none.
    """

    federation: FederationConfig
    seeds: tuple[int, ...]
    prepared: tuple[Path, ...] = ()
    full: bool = False
    split: Literal["centre", "dirichlet"] = "centre"
    sites: int = 0
    alpha: float = 0.5
    cohorts: Path | None = None

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(
                "unsuitable seeds of a simulation", got=self.seeds, expected="distinct numbers, 0 or above"
            )
        if self.split == "centre" and self.sites:
            raise UsageError("--sites", got=self.sites, advice="--sites goes with --split dirichlet only.")
        if self.split == "dirichlet" and self.sites < 2:
            raise UsageError(
                "too few sites to distribute patients to", got=self.sites, expected="2 or more (--sites)"
            )
        if self.full and self.prepared:
            raise UsageError("--full with prepared data", advice="--full is for the phantom centres only.")
        if not self.prepared and self.federation.image.crop_mm is None:
            raise UsageError(
                "image.crop_mm of the federation", got="null", expected="a size in mm: phantoms are cropped"
            )
        if self.federation.warm_start is not None:
            raise UsageError(
                "warm_start in a simulation",
                advice="Remove it: all models of a simulation start from fresh weights.",
            )
        if self.federation.secure_aggregation is not None:
            raise UsageError(
                "secure_aggregation in a simulation",
                advice="Remove it: all sites are in one process, and the sums are the same to a millionth.",
            )
        if self.split == "centre" and len(self.prepared) == 1:
            raise UsageError("only one prepared dataset", expected="2 or more, or --split dirichlet")

    @property
    def weights(self) -> Path | None:
        """The backbone's file, where one is configured."""
        return self.federation.backbone_weights.get(self.federation.model.backbone)

    def settings(self, sites: Datasets | None) -> dict[str, Any]:
        """All that determines the figures, as JSON.

        Args:
            sites: the prepared datasets; None for phantoms.
        """
        federation = self.federation.model_dump(
            mode="json",
            exclude={
                *("runs", "listen", "warm_start", "backbone_weights", "seed", "local_only", "min_sites"),
                "secure_aggregation",
            },
        )
        source: dict[str, Any] = {"kind": "phantom", "size": "full" if self.full else "demo"}
        source |= {"generator": GENERATOR_VERSION, "alignment": "true transform, no registration"}
        if sites is not None:
            source = {"kind": "prepared", "fingerprints": {n: d.fingerprint for n, d in sites.items()}}
        split: dict[str, Any] = {"kind": self.split}
        if self.split == "dirichlet":
            split |= {"sites": self.sites, "alpha": self.alpha}
        return {
            "source": source,
            "split": split,
            "seeds": list(self.seeds),
            "policy": {"min_cell": POLICY.min_cell, "min_class": POLICY.min_class},
            "federation": federation,
        }
