"""`stic-client`: the command of a hospital."""

import os

from stic_core.system import interrupts

interrupts.watch_imports("stic-client")

from stic_client.cli import data, joining, models, privacy_budget  # noqa: E402  the imports are what is watched
from stic_client.cli.options import app  # noqa: E402
from stic_core.system import command_errors  # noqa: E402

__all__ = ["app", "data", "joining", "main", "models", "privacy_budget"]


def main() -> None:
    """Entry point."""
    os.umask(0o077)  # what this program writes is of patients, or opens a door
    command_errors.adopt_log("flwr", name="flower")
    command_errors.run(app, name="stic-client")
