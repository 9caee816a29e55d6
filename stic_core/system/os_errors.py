"""What the system says when anything at all is read or written, in words that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType

from stic_core.errors import SticError
from stic_core.system.room import RUN_AGAIN

_STANDS_THERE = SticError(
    "a file stands where a folder is expected, or a folder where a file is",
    advice="Compare the paths of the configuration and of the command with what is on the disk; --verbose names it.",
)

_SURROUNDINGS: Mapping[int, SticError] = MappingProxyType(
    {
        errno.ENOSPC: SticError("no space left on the disk", advice=RUN_AGAIN),
        errno.EDQUOT: SticError(
            "this user's disk quota is used up",
            advice=RUN_AGAIN,
        ),
        errno.EFBIG: SticError(
            "a file would be larger than this process may write",
            advice="Raise the limit (ulimit -f unlimited; LimitFSIZE of a service), and run the same command again.",
        ),
        errno.EIO: SticError(
            "the disk cannot be read or written",
            advice="dmesg and smartctl -a DEVICE show whether it is failing.",
        ),
        **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), _STANDS_THERE),
        **dict.fromkeys(
            (errno.EMFILE, errno.ENFILE),
            SticError(
                "too many files are open",
                advice="Raise the limit (ulimit -n 4096; LimitNOFILE of a service), or use fewer --workers.",
            ),
        ),
        errno.ELOOP: SticError("a link leads back to itself", advice="Remove the link; --verbose names it."),
        errno.ESTALE: SticError(
            "a network share was unmounted or replaced",
            advice="Mount it again, and run the same command again.",
        ),
        errno.EROFS: SticError(
            "the disk is mounted read-only", advice="Have it mounted for writing, or find out why it is not."
        ),
        errno.EACCES: SticError(
            "this user may not read or write a file or folder",
            advice="Use ls -l to see who owns the files under STIC_HOME; --verbose names the file.",
        ),
    }
)
"""The file's name may be a patient's: not said."""


def explained(error: OSError) -> SticError | None:
    """An error that can be met at any file, in our words; None for any other."""
    return _SURROUNDINGS.get(error.errno or 0)
