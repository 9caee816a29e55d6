"""What a text of a hospital says: a number, HBsAg, an age, a sex.

A text is read by a closed grammar or vocabulary. What is in neither is unread, never guessed, and
a number that can be read in two ways gives both.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from stic_core.config import DecimalMark
from stic_core.errors import DataError

Decimal: TypeAlias = DecimalMark
"""What a lone comma or point before three digits is not: the mark that separates thousands."""

Relation = Literal["=", ">", ">=", "<", "<="]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text says: a number, and whether it is the number, a lower or an upper bound.

    Args:
        unit: the one that the text itself names; None where it names none.
    """

    value: float
    relation: Relation
    unit: str | None = None


def is_blank(text: str) -> bool:
    """Whether a text says that there is no value."""
    return _folded(text).lower() in _BLANK


_COMPACT_DATE = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
"""20210403: no marker is measured to eight digits."""


def number_readings(
    text: str, *, decimal: Decimal | None = None, units: Mapping[str, str] | None = None
) -> tuple[Reading, ...]:
    """Read a laboratory value as exports write it.

    Args:
        text: `6,5`, `1,234.5`, `1 234,5`, `1'234`, `<0,605`, `＞400`, `12.5 U/mL`, `12.5 H`.
        decimal: what a lone comma or point before three digits is, if the site says so.
        units: how units may be written (lower case, no spaces), and what they are called here.

    Returns:
        One reading; two, the smaller first, where `1,210` may be 1.21 or 1210; none where the text
        is no number.

    Example:
        >>> number_readings("<0,605")
        (Reading(value=0.605, relation='<', unit=None),)
        >>> [reading.value for reading in number_readings("2,345")]
        [2.345, 2345.0]
    """
    match = _NUMBER.fullmatch(_folded(text).lstrip("*↑↓! "))
    if match is None or _COMPACT_DATE.fullmatch(match["number"] + match["rest"].strip()):
        return ()
    power, unit = _after(match["rest"].strip(), units=units or {})
    if power is None:
        return ()
    relation = _RELATIONS[match["relation"] or "="]
    digits = _digits(match["number"])
    if len(digits) == 2 and (power or decimal):
        is_decimal = bool(power) or match["number"][-4] == {"comma": ",", "point": "."}[decimal or "point"]
        digits = digits[:1] if is_decimal else digits[1:]
    return tuple(Reading(float(f"{one}e{power}"), relation, unit) for one in digits)


def _digits(number: str) -> tuple[str, ...]:
    """A number as Python writes it; its decimal reading and then the other, where its only mark may be either."""
    if lone := _LONE.fullmatch(number):
        return f"{lone['whole']}.{lone['fraction']}", lone["whole"] + lone["fraction"]
    whole, fraction = number, ""
    last = re.findall("[,.' ]", number)[-1:]
    if last in ([","], ["."]) and number.count(last[0]) == 1:
        whole, fraction = number.rsplit(last[0])
    return (re.sub("[,.' ]", "", whole) + "." + fraction,)


def _after(rest: str, *, units: Mapping[str, str]) -> tuple[int | None, str | None]:
    """A power of ten and a unit behind a number; None for the power where something else stands there."""
    if (unit := units.get(_unit(rest))) or not rest:
        return 0, unit
    if power := _POWER.match(rest):
        rest = rest[power.end() :].strip()
        return (int(power[1]), units.get(_unit(rest))) if not rest or _unit(rest) in units else (None, None)
    unflagged = _FLAG.sub("", rest)
    return _after(unflagged, units=units) if unflagged != rest else (None, None)


def _unit(text: str) -> str:
    return text.replace(" ", "").lower()


def read_hbsag(text: str) -> bool | None:
    """True for positive, None where the text says neither clearly.

    Example:
        >>> read_hbsag("nicht reaktiv"), read_hbsag("+/-")
        (False, None)
    """
    plain = re.sub(r"\s*[-,(]?\s*\b(?:confirmed|bestätigt)\)?$", "", _folded(text).lower().rstrip(" ."))
    if prefix := _HBSAG.match(plain):
        plain = plain[prefix.end() :].strip()
        if plain not in {"-", "+"}:
            plain = re.sub(r"^[:=-]\s*", "", plain)
    if plain in {"1", "0"}:
        return plain == "1"
    if plain.count("(") != plain.count(")"):
        return None
    # A level and an answer, in any order: `0.03 (negative)`, `阳性(+)`; the answers must agree.
    parts = [part for part in (part.strip(" .") for part in re.split(r"[()\[\]]", plain)) if part]
    answers = {answer for part in parts for answer in _answers(part)}
    return answers.pop() if len(answers) == 1 and None not in answers else None


def _answers(part: str) -> list[bool | None]:
    """What a text without brackets says: a word, a sign, both, or one of them beside a level."""
    if (answer := _HBSAG_ANSWERS.get(part)) is not None:
        return [answer]
    if _LEVEL.fullmatch(part):
        return []
    for at in (place.start() for place in re.finditer(r"\s", part)):
        first, second = part[:at].strip(" ,;:"), part[at:].strip(" ,;:")
        known = [_HBSAG_ANSWERS.get(one) for one in (first, second)]
        if all(
            answer is not None or _LEVEL.fullmatch(one)
            for answer, one in zip(known, (first, second), strict=True)
        ):
            return [answer for answer in known if answer is not None]
    return [None]


def read_age(text: str) -> int:
    """Age in whole years, from `61`, `61.5`, `61 Jahre` or DICOM's `061Y`; from `90+` or `>89` the bound.

    Raises:
        DataError: anything else, above 120, or a bound that does not determine the level.
    """
    match = _AGE.fullmatch(_folded(text).lower())
    years = int(match["years"]) if match else 121
    if match is None or years > 120 or ((match["least"] or match["above"]) and years < _OLDEST):
        raise DataError("age cannot be read", expected="years, such as 61 or 061Y, at most 120")
    return years


def read_gender(text: str) -> bool:
    """True for male.

    Raises:
        DataError: neither female nor male.
    """
    try:
        return _GENDERS[_folded(text).lower().rstrip(".")]
    except KeyError:
        raise DataError("gender cannot be read", expected="female or male") from None


def _folded(text: str) -> str:
    """Full-width forms to plain ones, one kind of space, hyphen, apostrophe and micro.

    Superscripts stay what they are: 10⁹ must not become 109.
    """
    out: list[str] = []
    for sign in unicodedata.normalize("NFC", text):
        if unicodedata.category(sign) == "Cf":  # marks of direction, spaces without width
            continue
        form = unicodedata.decomposition(sign).partition(">")[0]
        plain = (
            unicodedata.normalize("NFKC", sign)
            if form in {"<wide", "<narrow", "<small", "<noBreak"}
            else sign
        )
        out += [_SAME.get(one, one) for one in plain]
    return " ".join("".join(out).split())


_SAME = {
    **dict.fromkeys("\u2010\u2212", "-"),
    **dict.fromkeys("\u2018\u2019\u02bc\u2032\u00b4`", "'"),
    **dict.fromkeys("\u00b5\u03bc", "u"),
    **dict.fromkeys("≥⩾≧", ">="),
    **dict.fromkeys("≤⩽≦", "<="),
    "\u00d7": "x",
    **{sup: f"^{digit}" for digit, sup in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}

_BLANK = frozenset(
    {
        *("", "na", "n/a", "nan", "none", "null", "missing", "unknown", "unbekannt", "k.a.", "k. a."),
        *("未查", "未检", "未测", "不详"),
    }
)

_RELATIONS: Mapping[str, Relation] = {
    "=": "=",
    ">": ">",
    "<": "<",
    ">=": ">=",
    "=>": ">=",
    "<=": "<=",
    "=<": "<=",
}
# Thousands are groups of three digits behind one to three of which the first is not 0.
_GROUPED = r"[1-9][0-9]{0,2}"
_NUMBER = re.compile(
    rf"(?P<relation>>=|=>|<=|=<|>|<)? ?(?P<number>"
    rf"{_GROUPED}(?: [0-9]{{3}})+(?:[.,][0-9]+)?|{_GROUPED}(?:'[0-9]{{3}})+(?:[.,][0-9]+)?"
    rf"|{_GROUPED}(?:\.[0-9]{{3}})+,[0-9]+|{_GROUPED}(?:,[0-9]{{3}})+\.[0-9]+"
    rf"|{_GROUPED}(?:\.[0-9]{{3}}){{2,}}|{_GROUPED}(?:,[0-9]{{3}}){{2,}}"
    r"|[0-9]*[.,][0-9]+|[0-9]+)(?![0-9.,'])(?P<rest>.*)"
)
_LONE = re.compile(rf"(?P<whole>{_GROUPED})[.,](?P<fraction>[0-9]{{3}})")
_POWER = re.compile(r"(?:[eE]|[x*] ?10 ?(?:\^|[eE]))([+-]?[0-9]{1,2})(?![0-9])")
_FLAG = re.compile(r"(?:\s|^)[(\[]?(?:HH|LL|H|L|N)[)\]]?$|\s*[(\[]?[*↑↓!]+[)\]]?$", re.IGNORECASE)
"""Marks that laboratories put behind values outside their range; only where nothing else explains what stands there."""

_HBSAG = re.compile(r"(?:hbs[- ]?ag|hbs[- ]antigen|乙肝表面抗原)(?![a-z])\s*")
_LEVEL = re.compile(r"[<>]?=?\s*[0-9]{1,6}(?:[.,][0-9]{1,4})?(?:\s*(?:iu/ml|u/ml|s/co|coi|index))?")
_POSITIVE = (
    *("positive", "pos", "reactive", "detected", "+ve"),
    *("positiv", "reaktiv", "nachweisbar", "nachgewiesen"),
    *("阳性", "阳", "有反应性", "positif", "positivo"),
    *("+", "++", "+++", "++++", "1+", "2+", "3+", "4+"),
)
_NEGATIVE = (
    *("negative", "neg", "-", "-ve", "undetected"),
    *itertools.chain(*((f"non{a}reactive", f"not{a}reactive", f"not{a}detected") for a in " -")),
    *("nonreactive", "negativ", "nichtreaktiv"),
    *itertools.chain(*((f"nicht{a}reaktiv", f"nicht{a}nachweisbar", f"nicht{a}nachgewiesen") for a in " -")),
    *("阴性", "阴", "无反应性", "négatif", "negatif", "negativo"),
)
_HBSAG_ANSWERS: Mapping[str, bool] = {**dict.fromkeys(_POSITIVE, True), **dict.fromkeys(_NEGATIVE, False)}

_OLDEST = 70
"""Years: an age that is only a lower bound says its level from here on."""
_AGE = re.compile(
    r"(?P<above>>=?)? ?(?P<years>[0-9]{1,3})(?:[.,][0-9]{1,2})?"
    r" ?(?:y|yr|yrs|years?|years? old|j|j\.|jahre?|a|岁|歲|歳)?(?P<least> ?\+)?"
)
_FEMALE = ("female", "f", "woman", "weiblich", "w", "frau", "女", "女性")
_MALE = ("male", "m", "man", "männlich", "maennlich", "mann", "男", "男性")
_GENDERS: Mapping[str, bool] = {**dict.fromkeys(_FEMALE, False), **dict.fromkeys(_MALE, True)}
