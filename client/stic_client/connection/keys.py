"""A site's key and the one that follows it: made beside it, taken when the server knows it.

`site.key` stays in use until then, and nothing is lost wherever this is interrupted: a new key
counts once its public half, which is written last, is there.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from stic_core.system.files import flush_folder
from stic_core.system.keys import key_fingerprint, load_private, load_public, make_key_pair


class SiteKeys:
    """The keys of one site.

    Args:
        current: the private key that `site.yaml` names.
    """

    def __init__(self, current: Path) -> None:
        self._current = current
        self._next = current.with_name(f"{current.stem}-next{current.suffix}")

    @property
    def next_public(self) -> Path:
        """The public half of the key that follows."""
        return self._next.with_suffix(".pub")

    def current(self) -> ec.EllipticCurvePrivateKey:
        """The key in use.

        Raises:
            UsageError: missing, readable by others, or not such a key.
        """
        key = load_private(self._current)
        halved = self.next_public.exists() and not self._next.exists()
        if halved and key_fingerprint(load_public(self.next_public)) == key_fingerprint(key.public_key()):
            # The private half was taken into use, and then something came in between.
            self.next_public.replace(self._current.with_suffix(".pub"))
        return key

    def next_key(self) -> ec.EllipticCurvePrivateKey | None:
        """The key that follows, where one was made.

        Raises:
            UsageError: readable by others, or not such a key.
        """
        return load_private(self._next) if self._next.exists() and self.next_public.exists() else None

    def make_next(self) -> str:
        """Make the key that follows, or find the one that was made before.

        Returns:
            Its fingerprint.

        Raises:
            UsageError: the site has no key yet, or one that cannot be used.
        """
        self.current()
        if (key := self.next_key()) is None:
            self._next.unlink(missing_ok=True)  # nobody was told of it
            make_key_pair(self._next)
            key = load_private(self._next)
        return key_fingerprint(key.public_key())

    def accepted(self) -> None:
        """The server knows the key that follows: it takes the place of the old one, which is deleted."""
        self._next.replace(self._current)
        self.next_public.replace(self._current.with_suffix(".pub"))
        flush_folder(self._current.parent)
