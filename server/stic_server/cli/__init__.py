"""`stic-server`: the command of the coordinating engineer."""

from stic_core.system import interrupts

interrupts.watch_imports("stic-server")

from stic_server.cli.app import app, main  # noqa: E402  the imports are what is watched

__all__ = ["app", "main"]
