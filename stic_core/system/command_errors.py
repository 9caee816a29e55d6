"""What both command lines do with an error, once: one line on stderr and the right exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import suppress

import click

from stic_core.errors import SticError, UsageError
from stic_core.system import streams
from stic_core.system.interrupts import INTERRUPTED
from stic_core.system.os_errors import explained


def adopt_log(library: str, *, name: str, minor: str | None = None) -> None:
    """Show a library's log as ours is shown, whatever level and handler it gives itself when it is imported.

    Args:
        library: its logger.
        name: the logger under which its lines are shown.
        minor: what is in the text of lines that only `--verbose` shows.
    """
    ours = logging.getLogger(name)

    def our_way(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        ours.log(logging.INFO if minor is not None and minor in text else record.levelno, text)
        return False

    logging.getLogger(library).addFilter(our_way)


def run(command: Callable[..., object], *, name: str) -> None:
    """Run a command line, and exit with its code.

    Args:
        command: a typer or click command.
        name: how messages call the program.
    """
    streams.secure()
    verbose = "--verbose" in sys.argv[1:]
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    try:
        code = _called(command)
        streams.flush_stdout()
    except SticError as error:
        if verbose:
            logging.getLogger(name).exception("where the error came from")
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
    except OSError as error:
        known = explained(error)
        if known is None:
            raise
        if verbose:
            logging.getLogger(name).exception("where the error came from")
        print(f"{name}: {known}", file=sys.stderr)
        code = known.exit_code
    with suppress(OSError):
        streams.flush_stdout()
    sys.exit(code if isinstance(code, int) else 0)


def _called(command: Callable[..., object]) -> object:
    """Run it; Typer makes an exit code of Ctrl-C, and says nothing."""
    code = command(standalone_mode=False)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code
