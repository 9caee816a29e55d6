"""The program, and what several of its commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stic_core import __version__, config_files
from stic_core.config import FederationConfig
from stic_core.errors import UsageError
from stic_core.system.command_line import LOG_HELP, VERBOSE_HELP, CommandLine, LogCommand, LogFormat
from stic_core.system.names import did_you_mean

_SHOWN = 5

app = CommandLine(name="stic-server", command=LogCommand, help="The coordinator's side of STIC-Federated.")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration; default: $STIC_HOME/server/federation.yaml.")
]


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        from stic_core.protocol.fields import VERSION

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


def run_folder(name: Path, config_file: Path | None) -> Path:
    """A run's folder as it is named: by its path, or by its id in the federation's `runs` or in ./runs.

    Raises:
        UsageError: there is no such folder; says which runs there are.
    """
    if name.is_dir():
        return name
    if name.exists():
        raise UsageError(f"{name} is not a run's folder", got="a file", expected="runs/RUN-ID, or RUN-ID")
    path = federation_file(config_file)
    places = [Path("runs")]
    if config_file is not None or path.exists():
        places.insert(0, config_files.load(path, FederationConfig).runs)
    for place in places:
        if len(name.parts) == 1 and (place / name).is_dir():
            return place / name
    known = sorted({run.parent.name for place in places for run in place.glob("*/record.json")})
    raise UsageError(
        f"there is no run {name}",
        expected=", ".join(known[-_SHOWN:])
        or f"a folder in {' or '.join(map(str, places))}; there is none yet",
        advice=did_you_mean(name.name, known),
    )


def model_folder(name: Path, config_file: Path | None) -> Path:
    """A model's folder: as it is named, or a run's."""
    if (name / "model.json").exists():
        return name
    if len(name.parts) > 1 and not (name / "record.json").exists():
        return name
    folder = run_folder(name, config_file)
    return folder / "model" if (folder / "record.json").exists() else folder


def existing_federation_file(config_file: Path | None) -> Path:
    """As `federation_file`, for what is done beside it.

    Raises:
        ConfigError: there is none, or it cannot be used.
    """
    path = federation_file(config_file)
    config_files.load(path, FederationConfig)
    return path


def federation_file(config_file: Path | None) -> Path:
    """The federation's file: as named, or in its place under `STIC_HOME`."""
    return config_file or config_files.home() / "server" / "federation.yaml"
