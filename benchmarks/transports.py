"""What a transport costs and saves: bytes a round, and the final model's AUC, over the same phantoms.

    python benchmarks/transports.py --seeds 0 1 2 3 4 --work runs/transports

Each transport is a simulation of the demo's federation (`stic_server.simulation`), with the same
patients, first weights and shuffling; only what travels is rounded otherwise. Bytes of VGG16's
trained part are the lengths of what `pack` makes of it. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from stic_core.config import ModelConfig, Transport
from stic_core.models.parameters import get_flat, trainable_specs
from stic_core.models.stic import initial_module
from stic_core.protocol.compression import downlink, pack
from stic_core.system.terminal import Terminal
from stic_server.simulation import SimulationConfig, simulate
from stic_server.simulation.options import demo_federation
from stic_server.simulation.summary import CROSS, FEDERATED, POOLED, spread

TRANSPORTS: tuple[Transport, ...] = get_args(Transport)


def packed_bytes(model: ModelConfig, transport: Transport) -> dict[str, int]:
    """Bytes of a model's trained part to a site and back, and its number of values."""
    module = initial_module(model, classes=3, seed=0)
    flat, specs = get_flat(module), trainable_specs(module)
    return {
        "values": flat.size,
        "down": pack(flat, specs, transport=downlink(transport)).nbytes,
        "up": pack(flat, specs, transport=transport).nbytes,
    }


def measure(transport: Transport, *, seeds: Sequence[int], work: Path) -> dict[str, Any]:
    """One transport's simulation."""
    federation = demo_federation().model_copy(update={"transport": transport})
    study = SimulationConfig(federation=federation, seeds=tuple(seeds), cohorts=work / "cohorts")
    with Terminal(prefix=transport) as terminal:
        results = simulate(study, work / transport, terminal=terminal)["results"].values()
    sites = len(next(iter(results))["patients"])
    return {
        "bytes_a_site": {
            way: round(np.mean([one["bytes_a_round"][way] for one in results]) / sites)
            for way in ("down", "up")
        },
        **{figure: [one["models"][FEDERATED][figure] for one in results] for figure in (POOLED, CROSS)},
        "tiny": packed_bytes(federation.model, transport),
        "vgg16": packed_bytes(ModelConfig(), transport),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--work", type=Path, required=True, help="keeps phantoms and simulations")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measure(name, seeds=arguments.seeds, work=arguments.work) for name in TRANSPORTS}
    exact = found["float32"]
    print("PHANTOM")
    print("| transport | demo: down, up | VGG16: down, up | macro AUC | minus float32 |")
    print("|---|---|---|---|---|")
    for name, row in found.items():
        difference = spread([a - b for a, b in zip(row[POOLED], exact[POOLED], strict=True)])
        row["difference"] = difference
        ends = difference["ci95"]
        interval = f" ({ends[0]:+.5f} to {ends[1]:+.5f})" if isinstance(ends, list) else ""
        minus = "" if name == "float32" else f"{difference['mean']:+.5f}{interval}"
        demo, vgg16 = (f"{row[of]['down']:,}, {row[of]['up']:,}" for of in ("bytes_a_site", "vgg16"))
        print(f"| {name} | {demo} | {vgg16} | {spread(row[POOLED])['mean']:.4f} | {minus} |")
    print(json.dumps({"phantom": True, "seeds": arguments.seeds, "transports": found}))


if __name__ == "__main__":
    main()
