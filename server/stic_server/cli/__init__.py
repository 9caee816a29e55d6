"""`stic-server`: the command of the coordinating engineer."""

from stic_server.cli.app import app, main

__all__ = ["app", "main"]
