"""What a site sends and nobody has read: bounded by site, whatever it announces."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from stic_server.reply_store import MOST_LEVELS, MOST_OBJECTS, MOST_REPLIES, ReplyStore, shape_of


@dataclass(frozen=True)
class Part:
    """An object as it is announced."""

    object_id: str
    children: Sequence[Part] = ()


def name_of(content: bytes) -> str:
    """An object's name."""
    return hashlib.sha256(content).hexdigest()


def _name(number: int) -> str:
    return name_of(str(number).encode())


def _chain(levels: int) -> Part:
    part = Part(_name(0))
    for number in range(1, levels):
        part = Part(_name(number), (part,))
    return part


SMALL = {name_of(b"whole"): (name_of(b"part"),), name_of(b"part"): ()}
WHOLE, PART = SMALL


def test_a_reply_is_put_together_once() -> None:
    """Announced, sent part by part, taken; then nothing of it is kept."""
    store = ReplyStore(most_bytes=100)
    assert store.announce(1, WHOLE, SMALL) == [WHOLE, PART]
    assert store.take(WHOLE) is None
    assert store.put(1, PART, b"part", children=())
    assert store.announce(1, WHOLE, SMALL) == [
        WHOLE
    ]  # the line was cut: what is here already is not sent again
    assert store.put(1, WHOLE, b"whole", children=(PART,))
    assert store.take(WHOLE) == {PART: b"part", WHOLE: b"whole"}
    assert store.held(1) == (0, 0)
    with pytest.raises(LookupError):
        store.take(WHOLE)


def test_only_what_was_announced_is_kept() -> None:
    """Another name, another site's, and one that is here already: nothing is stored."""
    store = ReplyStore(most_bytes=100)
    store.announce(1, WHOLE, SMALL)
    assert not store.put(1, name_of(b"other"), b"other", children=())
    assert not store.put(2, PART, b"part", children=())
    assert store.put(1, PART, b"part", children=())
    assert not store.put(1, PART, b"part", children=())
    assert store.held(1) == (2, 4)
    assert store.held(2) == (0, 0)


@pytest.mark.parametrize(
    ("content", "children", "most"),
    [
        (b"another", (PART,), 100),
        (b"whole", (), 100),
        (b"whole", (PART, name_of(b"x")), 100),
        (b"whole", (PART,), 4),
    ],
    ids=["another content", "fewer parts", "more parts", "too many bytes"],
)
def test_what_is_not_as_announced_breaks_the_reply(
    content: bytes, children: tuple[str, ...], most: int
) -> None:
    """It is known at once, so that nobody waits for it, and what was there of it is gone."""
    store = ReplyStore(most_bytes=most)
    store.announce(1, WHOLE, SMALL)
    store.put(1, PART, b"part", children=())
    assert not store.put(1, WHOLE, content, children=children)
    assert store.held(1)[1] == 0
    assert not store.put(1, PART, b"part", children=())
    with pytest.raises(LookupError):
        store.take(WHOLE)


def test_announcements_without_end() -> None:
    """So many replies of one site, and no more; the same again is the same, with other parts it is refused."""
    store = ReplyStore(most_bytes=100)
    for number in range(MOST_REPLIES):
        assert store.announce(1, _name(number), {_name(number): ()}) == [_name(number)]
    assert store.announce(1, _name(99), {_name(99): ()}) is None
    assert store.announce(1, _name(0), {_name(0): ()}) == [_name(0)]
    assert store.announce(1, _name(0), {_name(0): (PART,), PART: ()}) is None
    assert store.announce(2, _name(0), {_name(0): ()}) is None  # another site's reply
    assert store.announce(2, _name(99), {_name(99): ()}) == [_name(99)]
    assert store.held(1) == (MOST_REPLIES, 0)


def test_what_a_site_left_goes_with_it() -> None:
    """With the site's admission, with the question, or with the run; the others' stay."""
    store = ReplyStore(most_bytes=100)
    for node in (1, 2):
        store.announce(node, _name(node), {_name(node): (), PART: ()})
        store.put(node, PART, b"part", children=())
    store.drop_site(1)
    assert store.held(1) == (0, 0)
    assert store.held(2) == (2, 4)
    store.drop(_name(2))
    assert store.held(2) == (0, 0)
    store.announce(2, WHOLE, SMALL)
    store.clear()
    assert store.held(2) == (0, 0)


@pytest.mark.parametrize(
    "tree",
    [
        _chain(MOST_LEVELS + 1),
        _chain(100_000),
        Part(_name(0), [Part(_name(1 + number)) for number in range(MOST_OBJECTS)]),
        Part("x"),
        Part(_name(0).upper()),
        Part(_name(0), [Part(_name(1), [Part(_name(2))]), Part(_name(1))]),
    ],
    ids=[
        "nine levels",
        "a hundred thousand levels",
        "too many parts",
        "no digest",
        "capitals",
        "two things of one",
    ],
)
def test_an_announcement_that_cannot_be_walked(tree: Part) -> None:
    """Too deep, too wide, no names, or one name with parts and without: refused, however deep it is."""
    assert shape_of(tree) is None


def test_an_announcement_that_can() -> None:
    """Eight levels, a thousand objects, and the same part twice."""
    assert len(shape_of(_chain(MOST_LEVELS)) or ()) == MOST_LEVELS
    wide = Part(_name(0), [Part(_name(1 + number)) for number in range(MOST_OBJECTS - 1)])
    assert len(shape_of(wide) or ()) == MOST_OBJECTS
    twice = Part(_name(0), [Part(_name(1)), Part(_name(1))])
    assert shape_of(twice) == {_name(0): (_name(1), _name(1)), _name(1): ()}
