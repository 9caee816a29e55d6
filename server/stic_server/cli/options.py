"""The program, and what several of its commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stic_core import __version__, config_files
from stic_core.system.command_line import LOG_HELP, VERBOSE_HELP, CommandLine, LogCommand, LogFormat

app = CommandLine(name="stic-server", command=LogCommand, help="The coordinator's side of STIC-Federated.")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration; default: $STIC_HOME/server/federation.yaml.")
]


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        from stic_core.protocol.messages import VERSION

        print(f"stic-server {__version__} (protocol version {VERSION})")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", help=VERBOSE_HELP)] = False,
    log: Annotated[LogFormat, typer.Option("--log", help=LOG_HELP)] = LogFormat.TEXT,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before a command."""
    del verbose, log, version  # read where lines and errors are shown


def federation_file(config_file: Path | None) -> Path:
    """The federation's file: as named, or in its place under `STIC_HOME`."""
    return config_file or config_files.home() / "server" / "federation.yaml"
