"""What no message has is refused before anything is made of it, whatever JSON in general takes."""

from __future__ import annotations

import pytest

from stic_core.errors import ProtocolError
from stic_core.protocol.messages import (
    Acknowledged,
    Failure,
    LocalReport,
    Refusal,
    RoundReport,
    SiteDescription,
    decode_report,
    encode,
)
from stic_core.protocol.strict_json import DEEPEST, LARGEST_INTEGER, LONGEST, LONGEST_TEXT, check_json

DIGEST = "a" * 64


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "-1e400",
        "1" + "0" * 400,
        "1" * 5000,
        str(LARGEST_INTEGER + 1),
        '{"a": 1, "a": 2}',
        '{"a": {"b": 1, "b": 1}}',
        "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1),
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        f'"{"x" * (LONGEST_TEXT + 1)}"',
        f'{{"{"x" * (LONGEST_TEXT + 1)}": 1}}',
        f"[{'1,' * LONGEST}1]",
        '"a line\\nand another"',
        '"\\u001b[2J"',
        '"\\u202egnikaeps"',
        '"\\ud800"',
        "\ufeff{}",
        "{",
        "",
        "nan",
    ],
    ids=lambda text: text[:16].encode("unicode_escape").decode(),
)
def test_what_is_not_plain_is_refused(text: str) -> None:
    """As a ProtocolError that doesn't repeat the value."""
    with pytest.raises(ProtocolError) as refused:
        check_json(text)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "-0.0",
        "1.7976931348623157e308",
        "5e-324",
        str(LARGEST_INTEGER),
        "[" * DEEPEST + "]" * DEEPEST,
        f'"{"x" * LONGEST_TEXT}"',
        '"Universit\u00e4tsklinikum, \\"Haus 3\\""',
        '{"a": {"a": null}}',
        '[true, false, "NaN"]',
    ],
    ids=lambda text: text[:16],
)
def test_what_is_plain_is_taken(text: str) -> None:
    """Up to each bound."""
    check_json(text)


ROUND = (
    '{"version":5,"kind":"round-report","round":1,"validation":{"n":9,"loss_sum":1.5,"correct":7},'
    f'"examples":30,"train_loss":0.5,"steps":4,"compute_seconds":0.1,"weights_digest":"{DIGEST}"}}'
)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ('"round":1', '"round":"1"'),
        ('"round":1', '"round":1.0'),
        ('"round":1', '"round":true'),
        ('"round":1', '"round":10002'),
        ('"examples":30', '"examples":10000001'),
        ('"examples":30', f'"examples":{LARGEST_INTEGER}'),
        ('"loss_sum":1.5', '"loss_sum":1e308'),
        ('"loss_sum":1.5', '"loss_sum":-1'),
        ('"loss_sum":1.5', '"loss_sum":"1.5"'),
        ('"train_loss":0.5', '"train_loss":1e308'),
        ('"train_loss":0.5', '"train_loss":true'),
        ('"steps":4', '"steps":null'),
        ('"correct":7', '"correct":{"suppressed":"=1+1"}'),
        ('"correct":7', '"correct":{"suppressed":""}'),
        ('"compute_seconds":0.1', '"compute_seconds":1e9'),
        ('"version":5', '"version":"3"'),
    ],
)
def test_a_number_is_of_its_type_and_within_its_bounds(good: str, bad: str) -> None:
    """A text is no number and true is no 1; what is right is read."""
    assert isinstance(decode_report(ROUND), RoundReport)
    with pytest.raises(ProtocolError):
        decode_report(ROUND.replace(good, bad))


def test_the_numbers_that_are_whole_are_read_where_fractions_are_meant() -> None:
    """JSON has one kind of number: a loss of 2 is 2.0."""
    report = decode_report(ROUND.replace('"train_loss":0.5', '"train_loss":2'))
    assert isinstance(report, RoundReport)
    assert report.train_loss == 2.0


@pytest.mark.parametrize(
    "report",
    [
        Acknowledged(),
        Failure(code="DataError"),
        Refusal(reason="max_rounds: got 20, expected at most 10; \u201cReview it\u201d"),
        LocalReport(epochs=3, best_epoch=2, validation_loss=None, compute_seconds=0.5, weights_digest=DIGEST),
        decode_report(ROUND),
    ],
    ids=lambda report: report.kind,
)
def test_what_is_encoded_is_read_back(
    report: Acknowledged | Failure | Refusal | LocalReport | RoundReport | SiteDescription,
) -> None:
    """decode(encode(m)) == m."""
    assert decode_report(encode(report)) == report
