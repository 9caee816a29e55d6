"""What sites have sent and nobody has read yet, kept by site: bounded, and gone with the site or the question.

Flower keeps all objects of all sites in one store under their digests. There a name that is
announced and never referred to stays for ever, announcements can be strung into chains that its
recursion does not survive, and one site can say of another's object what it is made of. So what
sites send does not go there. Knows no Flower.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

MOST_OBJECTS, MOST_LEVELS = 1000, 8
"""In one reply; ours have seven objects on five levels."""

MOST_REPLIES = 8
"""Of one site that nobody has read; ours has one, and more where questions were withdrawn."""

Shape = Mapping[str, tuple[str, ...]]
"""The objects of a reply: the names of each one's parts, by its own name."""


class Tree(Protocol):
    """An object's name, and its parts."""

    @property
    def object_id(self) -> str:
        """A SHA-256, in hexadecimal."""
        ...

    @property
    def children(self) -> Iterable[Tree]:
        """The parts, in order."""
        ...


def shape_of(tree: Tree) -> Shape | None:
    """What a reply is announced to be; None for one that is too large, too deep, or says two things of one object."""
    shape: dict[str, tuple[str, ...]] = {}
    to_do, seen = [(tree, 1)], 0
    while to_do:
        part, level = to_do.pop()
        seen += 1
        children = tuple(child.object_id for child in part.children)
        if seen + len(children) > MOST_OBJECTS or level > MOST_LEVELS or not _is_digest(part.object_id):
            return None
        if shape.setdefault(part.object_id, children) != children:
            return None
        to_do += [(child, level + 1) for child in part.children]
    return shape


def _is_digest(name: str) -> bool:
    return len(name) == hashlib.sha256().digest_size * 2 and set(name) <= set("0123456789abcdef")


@dataclass(slots=True)
class _Reply:
    node: int
    shape: Shape
    contents: dict[str, bytes] = field(default_factory=dict)
    broken: bool = False


class ReplyStore:
    """Replies on their way, by the id of their message.

    Args:
        most_bytes: that one site's unread replies may hold.
    """

    def __init__(self, *, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._replies: dict[str, _Reply] = {}
        self._lock = threading.Lock()

    def announce(self, node: int, message_id: str, shape: Shape) -> list[str] | None:
        """Expect a reply's objects.

        Returns:
            Those that are missing; None where the site has too many replies here, or announced this one
            otherwise before.
        """
        with self._lock:
            known = self._replies.get(message_id)
            if known is None:
                if len(self._of(node)) >= MOST_REPLIES:
                    return None
                known = self._replies[message_id] = _Reply(node, shape)
            if known.node != node or known.shape != shape:
                return None
            return [name for name in shape if name not in known.contents]

    def put(self, node: int, name: str, content: bytes, *, children: Iterable[str]) -> bool:
        """Keep an object that its site announced; one that is not what was announced breaks the reply.

        Args:
            children: parts, as the content itself names them.
        """
        with self._lock:
            mine = self._of(node)
            waiting = [
                one for one in mine if name in one.shape and name not in one.contents and not one.broken
            ]
            if not waiting:
                return False
            held = sum(len(kept) for one in mine for kept in one.contents.values())
            sound = held + len(content) <= self._most_bytes and hashlib.sha256(content).hexdigest() == name
            for one in waiting:
                if sound and set(children) == set(one.shape[name]):
                    one.contents[name] = content
                else:
                    one.broken = True
                    one.contents.clear()
            return not any(one.broken for one in waiting)

    def take(self, message_id: str) -> dict[str, bytes] | None:
        """A reply's objects, which are then no longer kept; None while some are on their way.

        Raises:
            LookupError: it is gone, or what came is not what was announced.
        """
        with self._lock:
            reply = self._replies.get(message_id)
            if reply is None or reply.broken:
                self._replies.pop(message_id, None)
                raise LookupError(message_id)
            if len(reply.contents) < len(reply.shape):
                return None
            return self._replies.pop(message_id).contents

    def drop(self, message_id: str) -> None:
        """Nobody waits for this reply any more."""
        with self._lock:
            self._replies.pop(message_id, None)

    def drop_site(self, node: int) -> None:
        """The site is not admitted any more."""
        with self._lock:
            self._replies = {name: one for name, one in self._replies.items() if one.node != node}

    def clear(self) -> None:
        """The run is over."""
        with self._lock:
            self._replies.clear()

    def held(self, node: int) -> tuple[int, int]:
        """How many names and how many bytes of a site are kept."""
        with self._lock:
            mine = self._of(node)
            return sum(len(one.shape) for one in mine), sum(
                len(kept) for one in mine for kept in one.contents.values()
            )

    def _of(self, node: int) -> list[_Reply]:
        return [one for one in self._replies.values() if one.node == node]
