"""The program, and the site that the options before a command name."""

from __future__ import annotations

from pathlib import Path

import typer

from stic_core import config_files
from stic_core.config import SiteConfig
from stic_core.errors import UsageError

app = typer.Typer(
    name="stic-client",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A hospital's side of STIC-Federated. Without a command: join the federation and serve.",
)


class SiteFile:
    """A site's configuration file, as the options before a command name it."""

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


def site_of(context: typer.Context) -> SiteFile:
    """The site that is named, or an error where none is."""
    if context.obj is None:
        raise UsageError(
            "no site was given", advice="Give it before the command, as in stic-client --site center2 check."
        )
    return context.obj
