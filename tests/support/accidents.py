"""What befalls a program at one exact moment; the fork server arranges it in the program itself.

A test that watches a program from outside and then kills it comes too late on a machine that is busy.
"""

from __future__ import annotations

import os
import signal
import ssl
import sys
import threading
from pathlib import Path
from typing import Any

Accident = tuple[str, *tuple[str | int, ...]]
"""A function of this module and its arguments, as they go to the fork server."""


def arrange(accident: Accident) -> None:
    """In the program, before it begins."""
    name, *arguments = accident
    known = {
        "torn": _torn,
        "replaced": _replaced,
        "read": _read,
        "said": _said,
        "hung": _hung,
        "tapped": _tapped,
    }
    known[name](*arguments)


def torn(name: str) -> Accident:
    """kill -9 while a file is written whose name begins so: half of it is there, and no name yet."""
    return ("torn", name)


def replaced(name: str, *, holding: str) -> Accident:
    """kill -9 as soon as a file has its name and holds a text."""
    return ("replaced", name, holding)


def read(number: int, *, after: str) -> Accident:
    """kill -9 at the so many-th piece that comes over TLS after a file with such a name was written, or after ''."""
    return ("read", number, after)


def said(text: str, number: int) -> Accident:
    """A signal to itself the first time that it has written a text to stderr."""
    return ("said", text, number)


def hung(text: str) -> Accident:
    """The thread that writes a text to stderr never goes on; the others do."""
    return ("hung", text)


def tapped() -> Accident:
    """What it reads from TLS and writes into it is kept in the folder `STIC_TAP`; see `canary.TAP`."""
    return ("tapped",)


def _tapped() -> None:
    from support.canary import TAP

    exec(TAP, {})


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _torn(name: str) -> None:
    replace = os.replace

    def dying(source: Any, target: Any, **kwargs: Any) -> None:
        if Path(target).name.startswith(name):
            os.truncate(source, Path(source).stat().st_size // 2)
            _die()
        replace(source, target, **kwargs)

    os.replace = dying


def _replaced(name: str, holding: str) -> None:
    replace = os.replace

    def dying(source: Any, target: Any, **kwargs: Any) -> None:
        replace(source, target, **kwargs)
        if Path(target).name == name and holding in Path(target).read_text():
            _die()

    os.replace = dying


def _read(number: int, after: str) -> None:
    replace, begun, left = os.replace, not after, number

    def noticing(source: Any, target: Any, **kwargs: Any) -> None:
        nonlocal begun
        replace(source, target, **kwargs)
        begun = begun or Path(target).name.startswith(after)

    def watch(kind: Any) -> None:
        whole = kind.read

        def dying(self: Any, *args: Any) -> Any:
            nonlocal left
            left -= begun
            if left <= 0:
                _die()
            return whole(self, *args)

        kind.read = dying

    os.replace = noticing
    watch(ssl.SSLObject)  # asyncio's server
    watch(ssl.SSLSocket)  # the client


def _said(text: str, number: int) -> None:
    write, done = sys.stderr.write, False

    def watching(content: str) -> int:
        nonlocal done
        written = write(content)
        if text in content and not done:
            done = True
            sys.stderr.flush()
            os.kill(os.getpid(), number)
        return written

    sys.stderr.write = watching


def _hung(text: str) -> None:
    write = sys.stderr.write

    def hanging(content: str) -> int:
        written = write(content)
        if text in content:
            sys.stderr.flush()
            threading.Event().wait()
        return written

    sys.stderr.write = hanging
