"""What both command lines do with an error, once: one line on stderr and the right exit code."""

from __future__ import annotations

import itertools
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

import click

from stic_core.errors import DataError, SticError, UsageError
from stic_core.system import streams
from stic_core.system.interrupts import INTERRUPTED
from stic_core.system.log_lines import AS_JSON, StderrHandler
from stic_core.system.os_errors import explained
from stic_core.system.terminal import begin, say_error


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
    begin()
    AS_JSON.set(_asked_for_json(sys.argv[1:]))
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, handlers=[StderrHandler()])
    if AS_JSON.get():
        sys.excepthook = _fault_in_json
        logging.captureWarnings(capture=True)
    try:
        code = _called(command)
        streams.flush_stdout()
    except click.ClickException as error:
        code = UsageError.exit_code
        _say_mistyped(error, name=name)
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
        say_error("interrupted", program=name, exit_code=code)
    except BrokenPipeError:
        code = 1
    except (SticError, ModuleNotFoundError, OSError, RecursionError) as error:
        known = _in_our_words(error, program=name)
        if known is None:
            raise
        if verbose:
            logging.getLogger(name).exception("where the error came from")
        code = known.exit_code
        say_error(str(known), program=name, exit_code=code)
    with suppress(OSError):
        streams.flush_stdout()
    sys.exit(code if isinstance(code, int) else 0)


def _in_our_words(error: Exception, *, program: str) -> SticError | None:
    """What to tell the user; None for what is a fault of this program."""
    if isinstance(error, SticError):
        return error
    if isinstance(error, OSError):
        return explained(error)
    if isinstance(error, RecursionError):
        *_, (last, _) = traceback.walk_tb(error.__traceback__)
        if last.f_globals.get("__name__", "").partition(".")[0] != "json":
            return None  # ours
        return DataError(
            "a file is nested too deeply to be read", advice="--verbose shows which; restore it."
        )
    lacking = (getattr(error, "name", None) or "").partition(".")[0]
    if lacking.startswith("stic_"):
        return None
    # Each side's libraries are an extra of the one distribution, whose commands are both there without them.
    return UsageError(
        f"{lacking} is not installed",
        expected=f"what {program} needs",
        advice=f"Run pip install 'stic-federated[{program.removeprefix('stic-')}]'.",
    )


def _called(command: Callable[..., object]) -> object:
    """Run it; Typer makes an exit code of Ctrl-C, and says nothing."""
    code = command(standalone_mode=False)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code


def _asked_for_json(arguments: Sequence[str]) -> bool:
    """Whether `--log json` is among them: looked for before anything else, so that every error is a line of JSON."""
    return "--log=json" in arguments or ("--log", "json") in itertools.pairwise(arguments)


def _say_mistyped(error: click.ClickException, *, name: str) -> None:
    """What is wrong with a command line, and where its help is; the help itself where nothing was typed."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        # A service whose --site was lost has not done its work: so it is no success either.
        print(error.format_message(), file=sys.stderr)
        return
    context = getattr(error, "ctx", None)
    words = context.command_path.split()[1:] if context is not None else []
    text = error.format_message()
    said = text if text.endswith((".", "?", ")")) else f"{text}."
    say_error(f"{said} See {' '.join([name, *words])} --help.", program=name, exit_code=UsageError.exit_code)


def _fault_in_json(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of ours, which shows where it happened."""
    logging.getLogger("stic").critical("%s", kind.__name__, exc_info=(kind, error, trace))
