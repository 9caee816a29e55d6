"""What a hospital's text says, each by hand: numbers, HBsAg, ages, genders."""

from __future__ import annotations

import pytest

from stic_core.data.clinical import MARKERS
from stic_core.data.clinical_texts import (
    Reading,
    number_readings,
    read_age,
    read_gender,
    read_hbsag,
)
from stic_core.errors import DataError

PLATELETS = MARKERS["plt"].spelled


@pytest.mark.parametrize(("text", "reading"), [
    (" >1210", Reading(1210, ">")), ("<0.6", Reading(0.6, "<")), ("＞400", Reading(400, ">")),
    ("≥7", Reading(7, ">=")), ("≤ 0.8 ", Reading(0.8, "<=")), ("=<0.8", Reading(0.8, "<=")),
    ("１２．５", Reading(12.5, "=")), ("12,5", Reading(12.5, "=")), ("6,25", Reading(6.25, "=")), (".5", Reading(0.5, "=")),
    ("0,605", Reading(0.605, "=")), ("<0,605", Reading(0.605, "<")), ("0.605", Reading(0.605, "=")), ("00,605", Reading(0.605, "=")),
    ("1234,567", Reading(1234.567, "=")), ("6,5000", Reading(6.5, "=")),
    ("1,234,567", Reading(1_234_567, "=")), ("1,234,567.5", Reading(1_234_567.5, "=")), ("1,234.567", Reading(1234.567, "=")),
    ("1.234,5", Reading(1234.5, "=")), ("1.234.567", Reading(1_234_567, "=")),
    ("1 234", Reading(1234, "=")), ("1\u00a0234,5", Reading(1234.5, "=")), ("> 1\u202f210", Reading(1210, ">")),
    ("1'234", Reading(1234, "=")), ("1’234.5", Reading(1234.5, "=")),
    ("1.2e3", Reading(1200, "=")), ("1.234e3", Reading(1234, "=")), ("1,5x10^2", Reading(150, "=")), ("1.5 × 10²", Reading(150, "=")),
    ("12.5 H", Reading(12.5, "=")), ("12.5*", Reading(12.5, "=")), ("↑12,5", Reading(12.5, "=")), ("12.5 (L)", Reading(12.5, "=")),
    ("150 x10⁹/L", Reading(150, "=", "10^9/L")), ("150×10^9/l", Reading(150, "=", "10^9/L")), ("150 G/l", Reading(150, "=", "10^9/L")),
    ("150 10*9/L L", Reading(150, "=", "10^9/L")), ("100 000 /µl", Reading(100_000, "=", "/uL")),
])  # fmt: skip
def test_numbers_as_exports_write_them(text: str, reading: Reading) -> None:
    """Full width, thousands, decimal commas, signs with and without spaces, units, marks of the laboratory."""
    assert number_readings(text, units=PLATELETS) == (reading,)


@pytest.mark.parametrize("text", [
    "", "abc", ">", "1.2.3", "--5", "-5", "+5", "12 mg of Dr. Smith", "1,2,3", "1,23,456", "0,605,123", "nan", "inf", ">>5",
    "5-7", "1.5–2.0", "2024-03-05", "20240305", "05.03.2024", "3/5/2024", "1.Feb", "12 34", "5.", "~5", "6.5 (normal)", "150 109/L", "5 mg", "¹²",
])  # fmt: skip
def test_texts_that_are_no_numbers(text: str) -> None:
    """Words, ranges, dates, units that are not known here: nothing is guessed."""
    assert number_readings(text, units=PLATELETS) == ()


@pytest.mark.parametrize("text", ["1,210", "1.210", "１，２１０", "1,210 G/L", "1.210 H"])
def test_a_lone_mark_before_three_digits_has_two_readings(text: str) -> None:
    """And one where the laboratory's decimal mark is known."""
    mark, other = ("point", "comma") if "." in text else ("comma", "point")
    assert [one.value for one in number_readings(text, units=PLATELETS)] == [1.21, 1210]
    assert [one.value for one in number_readings(text, units=PLATELETS, decimal=mark)] == [1.21]
    assert [one.value for one in number_readings(text, units=PLATELETS, decimal=other)] == [1210]


@pytest.mark.parametrize("text", [
    "+", "(+)", "＋", "+++", "1+", "阳性", "阳性(+)", "(+)阳性", "Positive", "Pos", "pos.", "1", "positiv", "reaktiv", "Reactive",
    "nachweisbar", "detected", "HBsAg-positive", "HBsAg positive", "HBsAg(+)", "HBsAg+", "Positive - confirmed",
    "positiv (bestätigt)", "250 (positive)", "positive (>250 IU/mL)", "+ve",
])  # fmt: skip
def test_hbsag_positive(text: str) -> None:
    """Words and signs of the vocabulary, a hyphen among them or not."""
    assert read_hbsag(text) is True


@pytest.mark.parametrize("text", [
    "-", "(-)", "－", "（－）", "阴性", "阴性(-)", "negative", "NEG", "neg.", "0", "negativ", "non-reactive", "Non reactive",
    "nonreactive", "nicht reaktiv", "nicht nachweisbar", "not detected", "HBsAg-negative", "HBsAg: neg", "HBsAg-",
    "0.03 (negative)", "negativ 0,03", "<0.05 negative", "-ve",
])  # fmt: skip
def test_hbsag_negative(text: str) -> None:
    """Words and signs of the vocabulary."""
    assert read_hbsag(text) is False


@pytest.mark.parametrize("text", [
    "", "+/-", "+-", "±", "(+", "not done - haemolysed", "2024-03-05", "0.03", "250", "2", "--", "---", "–", "n.d.", "ND", "N", "yes",
    "弱阳性", "weakly positive", "schwach positiv", "not positive", "positive?", "borderline", "grenzwertig", "阴性(+)", "(+) neg",
    "neg/pos", "pos (2019), neg (2023)", "anti-HBs positive", "HBeAg +", "HBsAb-positive", "positive control failed",
])  # fmt: skip
def test_hbsag_that_is_not_clear(text: str) -> None:
    """Neither is guessed."""
    assert read_hbsag(text) is None


@pytest.mark.parametrize(("text", "age"), [
    ("61", 61), ("061Y", 61), ("61.9", 61), ("61,5", 61), ("６１", 61), ("0", 0), ("61y", 61), ("120", 120), ("61 years", 61),
    ("61 Jahre", 61), ("61岁", 61), ("90+", 90), (">89", 89), ("≥90", 90),
])  # fmt: skip
def test_ages(text: str, age: int) -> None:
    """Years, DICOM's age string, full width, and the bound that stands for the oldest."""
    assert read_age(text) == age


@pytest.mark.parametrize(
    "text", ["", "121", "-5", "six", "061M", "1234", "1961", "60-69", ">40", "<18", "01.02.1961", "6.123"]
)
def test_ages_that_cannot_be_read(text: str) -> None:
    """Never silently the reference level."""
    with pytest.raises(DataError, match="age"):
        read_age(text)


@pytest.mark.parametrize(("texts", "male"), [
    (("male", "M", "m.", "männlich", "ma\u0308nnlich", "男", "男性", "Mann"), True),
    (("female", " Female", "f", "F", "w", "weiblich", "女", "女性", "Frau"), False),
])  # fmt: skip
def test_genders(texts: tuple[str, ...], male: bool) -> None:
    """English, German and Chinese, short and long."""
    assert {read_gender(text) for text in texts} == {male}


@pytest.mark.parametrize("text", ["", "other", "0", "1", "2", "d", "O", "X", "unknown", "m/f"])
def test_genders_that_cannot_be_read(text: str) -> None:
    """Zero would mean female."""
    with pytest.raises(DataError, match="gender"):
        read_gender(text)
