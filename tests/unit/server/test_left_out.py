"""Every answer that is not used is counted by its kind, beside the line that says why."""

from __future__ import annotations

import pytest

from stic_core.errors import NoRoomError, SiteReportError
from stic_core.protocol.messages import Acknowledged, Failure, Refusal, Report, Unprepared
from stic_server.federation.sites import Answer, Exchange, LeftOut, answers_of, unreadable
from support.federation_kit import Recorder


def _refuse(site: str, _: Report) -> None:
    raise SiteReportError("its figures contradict each other", site=site)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(Refusal(reason="not here")), "refusal"),
        (Answer(Failure(code="DataError")), "failure"),
        (Answer(Failure(code=NoRoomError.__name__)), "disk"),
        (unreadable("no JSON"), "unreadable"),
        (Answer(Unprepared()), "unexpected"),
        (Answer(Acknowledged()), "contradiction"),
    ],
)
def test_the_kind_is_told_with_the_line(answer: Answer, kind: LeftOut) -> None:
    """Once for each, with one line."""
    observer = Recorder()
    assert answers_of(Exchange({"center1": answer}), Acknowledged, observer=observer, check=_refuse) == {}
    assert observer.seen_left_out == [("center1", kind)]
    assert len(observer.notes) == 1


def test_what_is_used_is_not_counted() -> None:
    """Nothing is told of an answer that is taken."""
    observer = Recorder()
    assert answers_of(Exchange({"center1": Answer(Acknowledged())}), Acknowledged, observer=observer)
    assert (observer.seen_left_out, observer.notes) == ([], [])
