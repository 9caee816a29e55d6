"""A file that somebody names on a command line or sends: read whole, or one line that says what it is instead."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from stic_core.errors import UsageError

_WORDS = {
    errno.ENAMETOOLONG: "a name that is too long",
    errno.ELOOP: "a link that leads to itself",
    errno.ENOTDIR: "a path through a file",
}

_NOWHERE = frozenset(_WORDS)

_SHOWN = 120

LARGEST = 1 << 20
"""Bytes; keys, certificates and plans are far smaller."""


def read_given(path: Path, *, kind: str, expected: str, advice: str | None = None) -> bytes:
    """A small file's content.

    Args:
        kind: what it should be, for the message where there is none.
        expected: likewise, where it is something else.
        advice: what to do then.

    Raises:
        UsageError: missing, a folder, not readable, empty, or far too large.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise _unsuitable(path, "no ordinary file", expected=expected, advice=advice)
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise UsageError(f"no {kind} at {path}", advice=advice) from None
    except IsADirectoryError:
        raise _unsuitable(path, "a folder", expected=expected, advice=advice) from None
    except ValueError:
        raise UsageError(f"no {kind} at {str(path)!r}", advice=advice) from None  # a zero byte in the path
    except OSError as error:
        why = _WORDS.get(error.errno or 0, error.strerror)
        raise UsageError(f"{path} cannot be read", got=why, advice=advice) from None
    if not content:
        raise _unsuitable(path, "an empty file", expected=expected, advice=advice)
    if len(content) > LARGEST:
        raise _unsuitable(path, "a file of more than 1 MB", expected=expected, advice=advice)
    return content


def check_path(path: Path) -> None:
    """See that a path could be one, whether or not there is anything.

    Raises:
        UsageError: it is too long, a link to itself, or leads through a file.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno in _NOWHERE:
            shown = str(path) if len(str(path)) <= _SHOWN else f"{str(path)[:_SHOWN]}..."
            raise UsageError(f"{shown} cannot be a file or folder", got=_WORDS[error.errno]) from None


def _at_once(path: str, flags: int) -> int:
    """A named pipe that nobody writes to is not waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def _unsuitable(path: Path, what: str, *, expected: str, advice: str | None) -> UsageError:
    return UsageError(f"{path} is not usable here", got=what, expected=expected, advice=advice)


def holds_private_key(content: bytes) -> bool:
    """Whether a file has a private key in it, of whatever kind."""
    return b"PRIVATE KEY-----" in content or content.startswith(b"PuTTY-User-Key-File")


def what_it_is(content: bytes) -> str:
    """A file in a few words, so that whoever named the wrong one sees which it was.

    Example:
        >>> what_it_is(b"-----BEGIN CERTIFICATE-----")
        'a certificate'
    """
    begins = {
        b"PK\x03\x04": "a ZIP or Office file",
        b"%PDF": "a PDF",
        b"\x1f\x8b": "a gzip file",
        b"\x89PNG": "a picture",
    }
    if holds_private_key(content):
        return "a private key"
    if b"-----BEGIN CERTIFICATE REQUEST" in content:
        return "a request for a certificate"
    if b"-----BEGIN CERTIFICATE" in content:
        return "a certificate"
    if b"-----BEGIN PUBLIC KEY" in content or content.startswith((b"ssh-", b"ecdsa-", b"sk-")):
        return "a public key"
    for first, name in begins.items():
        if content.startswith(first):
            return name
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "a binary file"
    return "another text"
