"""The program, and the site that an option names: before the command, or after it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import typer

from stic_core import config_files
from stic_core.config import SiteConfig
from stic_core.errors import UsageError
from stic_core.system.command_line import Command, CommandLine, log_options
from stic_core.system.names import site_name

SITE_HELP = "The site's name, such as center2; every command but import needs it."
CONFIG_HELP = "Configuration; default: $STIC_HOME/sites/SITE/site.yaml."


@dataclass(slots=True)
class Named:
    """What the options of a command line name, wherever they stand in it."""

    site: str | None = None
    config: Path | None = None

    def add(self, option: str, value: Any) -> None:
        """Take an option's value; None is an option that was not given.

        Raises:
            UsageError: it was given before with another value.
        """
        before = getattr(self, option)
        if value is not None and before not in {None, value}:
            raise UsageError(
                f"--{option} was given twice", got=f"{before} and {value}", expected="one of them"
            )
        if value is not None:
            setattr(self, option, value)


def _add(context: click.Context, option: click.Parameter, value: Any) -> None:
    named = context.find_root().obj
    if isinstance(named, Named) and option.name is not None:  # not while a shell completes a line
        named.add(option.name, value)


class SiteCommand(Command):
    """A command of one site."""

    @staticmethod
    def everywhere() -> list[click.Parameter]:
        """See `Command`."""
        path = click.Path(path_type=Path)
        return [
            click.Option(["--site"], callback=_add, expose_value=False, help=SITE_HELP),
            click.Option(["--config"], type=path, callback=_add, expose_value=False, help=CONFIG_HELP),
            *log_options(),
        ]


app = CommandLine(
    name="stic-client",
    command=SiteCommand,
    help="A hospital's side of STIC-Federated. With --site and without a command: join the federation and serve.",
)


class SiteFile:
    """A site's configuration file."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path

    def load(self) -> SiteConfig:
        """The configuration.

        Raises:
            ConfigError: it cannot be used.
            UsageError: it is another site's.
        """
        loaded = config_files.load(self.path, SiteConfig)
        if loaded.site != self.name:
            raise UsageError(
                f"{self.path} is the configuration of another site", got=loaded.site, expected=self.name
            )
        return loaded


def model_folder(name: Path, config: SiteConfig) -> Path:
    """A model's folder as it is named: by its path, or by the id of a run whose final model is at this site."""
    here = config.models / name
    return here if not name.exists() and len(name.parts) == 1 and here.is_dir() else name


def site_of(context: typer.Context) -> SiteFile:
    """The site that is named.

    Raises:
        UsageError: none is, or what is named cannot be a site.
    """
    named: Named = context.find_root().obj
    if named.site is None:
        raise UsageError("no site was given", advice="Name it, as in stic-client --site center2 check.")
    name = site_name(named.site)
    return SiteFile(name, named.config or config_files.home() / "sites" / name / "site.yaml")
