"""What both command lines do with an error, once: one line on stderr and the right exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

import click

from stic_core.errors import SticError, UsageError

INTERRUPTED = 130

# Before flwr is imported anywhere: no process contacts anything but its own server.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"


def run(command: Callable[..., object], *, name: str) -> None:
    """Run a command line, and exit with its code.

    Args:
        command: a typer or click command.
        name: how messages call the program.
    """
    verbose = "--verbose" in sys.argv[1:]
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    # flwr sets its logger's level when it is imported, which would undo a level set here.
    logging.getLogger("flwr").addFilter(lambda record: verbose or record.levelno >= logging.ERROR)
    try:
        code = command(standalone_mode=False)
    except SticError as error:
        if verbose:
            logging.getLogger(name).exception("the error came from here")
        print(f"{name}: {error}", file=sys.stderr)
        code = error.exit_code
    except click.ClickException as error:
        print(f"{name}: {error.format_message()} See {name} --help.", file=sys.stderr)
        code = UsageError.exit_code
    except (KeyboardInterrupt, click.Abort):
        print(f"{name}: interrupted", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:
        code = 1
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 0)
