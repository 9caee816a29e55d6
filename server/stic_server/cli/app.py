"""`stic-server`: the command of the coordinating engineer."""

from __future__ import annotations

from stic_core.system import command_errors
from stic_server.cli import keys, results, running, trials
from stic_server.cli.options import app

__all__ = ["app", "keys", "main", "results", "running", "trials"]


def main() -> None:
    """Entry point."""
    # What a site did wrong is answered to the site, and is no error of the server.
    command_errors.adopt_log("flwr", name="flower", minor="[ApiError:")
    command_errors.run(app, name="stic-server")
