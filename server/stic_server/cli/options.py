"""What several commands of `stic-server` take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stic_core import config_files

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration; default: $STIC_HOME/server/federation.yaml.")
]


def federation_file(config_file: Path | None) -> Path:
    """The federation's file: as named, or in its place under `STIC_HOME`."""
    return config_file or config_files.home() / "server" / "federation.yaml"
