"""The folder deploy/kubernetes as docs/deploy/kubernetes.md has it made."""

from __future__ import annotations

import shutil
from pathlib import Path

from stic_server.setup import NewFederation, initialise

SOURCE = Path(__file__).parents[2] / "deploy" / "kubernetes"
MONITORING = "monitoring: {host: 0.0.0.0, health_port: 8081, metrics_port: 9464}"


def make_folder(path: Path) -> Path:
    """A copy with `server/` from `stic-server init`, and the ports that Kubernetes asks."""
    shutil.copytree(SOURCE, path)
    new = NewFederation(name="stic", host="0.0.0.0", port=8443, names=["federation.example.org"])
    federation, _ = initialise(path / "server", new)
    with federation.open("a") as file:
        file.write(f"{MONITORING}\n")
    return path
