"""Ctrl-C while a program still imports: its word and exit code, as at any later moment, and no traceback."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

INTERRUPTED = 130


def watch_imports(name: str) -> None:
    """Until `command_errors.run` catches it, let Ctrl-C end the program with its word.

    Args:
        name: of the console script; in any other program, such as a test, nothing changes.
    """
    if Path(sys.argv[0]).name != name:
        return
    shown = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            shown(kind, error, trace)
            return
        sys.stderr.write(f"{name}: interrupted\n")
        sys.stderr.flush()
        os._exit(INTERRUPTED)  # Python would end itself with a signal instead

    sys.excepthook = hook
