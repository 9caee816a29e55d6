"""`stic-client`: the command of a hospital."""

from stic_client.cli import data, joining, models
from stic_client.cli.options import app
from stic_core import commands

__all__ = ["app", "data", "joining", "main", "models"]


def main() -> None:
    """Entry point."""
    commands.run(app, name="stic-client")
