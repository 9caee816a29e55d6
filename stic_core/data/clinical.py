"""Clinical values as hospitals write them, and the paper's 20 columns made of them.

The vocabulary and its order are fixed here and never derived from one site's data: a site
that lacks a level would get another width. A missing value is zero in all its columns.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from stic_core.errors import DataError
from stic_core.tensors.array_types import ClinicalMatrix

COLUMNS = (
    "Age_age2",
    "Age_age3",
    "Age_age4",
    "Age_age5",
    "Gender_male",
    "PLT_abnormal",
    "PLT_normal",
    "TBIL_abnormal",
    "TBIL_normal",
    "AFP_abnormal1",
    "AFP_abnormal2",
    "AFP_normal",
    "CA199_abnormal",
    "CA199_normal",
    "CEA_abnormal",
    "CEA_normal",
    "CA125_abnormal",
    "CA125_normal",
    "HBsAg_negative",
    "HBsAg_positive",
)

VARIABLES = ("age", "gender", "plt", "tbil", "afp", "ca199", "cea", "ca125", "hbsag")
"""The manifest's columns, in the order of the vector."""

Compat = Literal["strict", "authors"]
"""How a censored value is read: only if its bound settles the level, or as the authors did."""


@dataclass(frozen=True, slots=True)
class Marker:
    """A laboratory value and the levels that the paper cuts it into.

    Args:
        prefix: how its columns begin.
        unit: the unit of the thresholds; sites convert to it.
        levels: pairs (level, lower bound), highest first; the last bound is 0.
        to_unit: factor from another unit that hospitals use to `unit`.
        closed: whether a value equal to a bound belongs to the level above it.
    """

    prefix: str
    unit: str
    levels: tuple[tuple[str, float], ...]
    to_unit: Mapping[str, float]
    closed: bool = True

    def level(self, value: float) -> str:
        """The level of a value in `unit`."""
        for name, bound in self.levels:
            if value > bound or (self.closed and value == bound):
                return name
        return self.levels[-1][0]


# Thresholds of the authors' code. The platelets' abnormal side is the low one (<= 100).
# Units: AFP is in ng/mL (the authors' docstring says umol/L, which is a slip).
MARKERS = MappingProxyType(
    {
        "plt": Marker(
            "PLT",
            "10^9/L",
            (("normal", 100.0), ("abnormal", 0.0)),
            {"10^9/L": 1.0, "/uL": 0.001},
            closed=False,
        ),
        "tbil": Marker(
            "TBIL", "umol/L", (("abnormal", 17.1), ("normal", 0.0)), {"umol/L": 1.0, "mg/dL": 17.1}
        ),
        "afp": Marker(
            "AFP",
            "ng/mL",
            (("abnormal1", 400.0), ("abnormal2", 7.0), ("normal", 0.0)),
            {"ng/mL": 1.0, "ug/L": 1.0},
        ),
        "ca199": Marker("CA199", "U/mL", (("abnormal", 39.0), ("normal", 0.0)), {"U/mL": 1.0, "kU/L": 1.0}),
        "cea": Marker("CEA", "ng/mL", (("abnormal", 10.0), ("normal", 0.0)), {"ng/mL": 1.0, "ug/L": 1.0}),
        "ca125": Marker("CA125", "U/mL", (("abnormal", 35.0), ("normal", 0.0)), {"U/mL": 1.0, "kU/L": 1.0}),
    }
)

AGE_CUTS = (40, 50, 60, 70)
"""Years: below the first is the reference level, which has no column."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text says: a number, and whether it is the number, a lower or an upper bound."""

    value: float
    relation: Literal["=", ">", ">=", "<", "<="]


_NUMBER = re.compile(r"^(?P<relation>>=|<=|>|<)?(?P<value>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)$")
_THOUSANDS = re.compile(r"^\d{1,3}(,\d{3})+(\.\d+)?$")
_AGE = re.compile(r"^(\d{1,3})(?:\.\d+)?[Yy]?$")
_GENDER = {"female": False, "f": False, "女": False, "male": True, "m": True, "男": True}


def _plain(text: str) -> str:
    """Full-width forms to plain ones, spaces out."""
    folded = unicodedata.normalize("NFKC", text).replace("≥", ">=").replace("≤", "<=")
    return re.sub(r"\s", "", folded)


def read_number(text: str) -> Reading | None:
    """Read a laboratory value as exports write it.

    Args:
        text: `1,210`, ` >1210`, `<0.6`, `＞400`, `≥7`; empty is missing.

    Returns:
        The reading, or None where the value is missing.

    Raises:
        DataError: the text is neither empty nor a number.

    Example:
        >>> read_number("＞1,210")
        Reading(value=1210.0, relation='>')
    """
    plain = _plain(text)
    if not plain:
        return None
    sign = re.match(r"^(>=|<=|>|<)?", plain)
    digits = plain[sign.end() :] if sign else plain
    if "," in digits:
        # One comma before one or two digits is a decimal comma; groups of three are thousands.
        digits = digits.replace(",", "") if _THOUSANDS.match(digits) else digits.replace(",", ".", 1)
    match = _NUMBER.match((sign.group(0) if sign else "") + digits)
    if match is None:
        raise DataError("a laboratory value cannot be read", got="text", expected="a number, or empty")
    return Reading(float(match["value"]), match["relation"] or "=")  # pyright: ignore[reportArgumentType]


def level_of(
    variable: str, reading: Reading, *, unit: str | None = None, compat: Compat = "strict"
) -> str | None:
    """The level of a laboratory value, or None where a censored value does not settle it.

    Args:
        variable: a key of `MARKERS`.
        reading: the value as it was written.
        unit: the unit it was written in; None is the marker's own.
        compat: "authors" reads any `>` as the highest level and any `<` as the lowest value.

    Raises:
        DataError: a unit that the marker cannot be converted from.
    """
    marker = MARKERS[variable]
    factor = marker.to_unit.get(unit or marker.unit)
    if factor is None:
        raise DataError(f"unit of {variable}", got=unit, expected=" or ".join(marker.to_unit))
    value = reading.value * factor
    if reading.relation == "=":
        return marker.level(value)
    above = reading.relation.startswith(">")
    if compat == "authors":
        return marker.levels[0][0] if above else marker.level(0.0)
    # The level is settled when the whole half-line on that side of the bound has one level.
    if above:
        nearest = marker.level(np.nextafter(value, np.inf) if reading.relation == ">" else value)
        return nearest if nearest == marker.levels[0][0] else None
    nearest = marker.level(np.nextafter(value, -np.inf) if reading.relation == "<" else value)
    return nearest if nearest == marker.levels[-1][0] else None


def read_age(text: str) -> int:
    """Age in whole years, from `61`, `61.5` or DICOM's `061Y`.

    Raises:
        DataError: anything else, or above 120.
    """
    match = _AGE.match(_plain(text))
    if match is None or int(match[1]) > 120:
        raise DataError("age cannot be read", expected="years, such as 61 or 061Y, at most 120")
    return int(match[1])


def read_gender(text: str) -> bool:
    """True for male.

    Raises:
        DataError: neither female nor male.
    """
    try:
        return _GENDER[_plain(text).lower()]
    except KeyError:
        raise DataError("gender cannot be read", expected="female or male") from None


def read_hbsag(text: str) -> bool | None:
    """True for positive (a `+` anywhere), None where missing.

    Raises:
        DataError: a text that says neither.
    """
    plain = _plain(text).lower()
    if not plain:
        return None
    if "+" in plain or "阳性" in plain or plain in {"positive", "pos", "1"}:
        return True
    if "-" in plain or "阴性" in plain or plain in {"negative", "neg", "0"}:
        return False
    raise DataError("HBsAg cannot be read", expected="+, -, positive, negative, or empty")


@dataclass(frozen=True, slots=True)
class Levels:
    """One patient's values, read.

    Args:
        columns: of `COLUMNS`, those that are 1.
        missing: variables without a value.
        unsettled: variables whose censored value leaves the level open; they count as missing.
    """

    columns: tuple[str, ...]
    missing: tuple[str, ...]
    unsettled: tuple[str, ...]


def read_levels(
    row: Mapping[str, str], *, units: Mapping[str, str] | None = None, compat: Compat = "strict"
) -> Levels:
    """Read one patient's values.

    Args:
        row: texts by the names of `VARIABLES`; a missing key is a missing value.
        units: the site's unit by variable, where it is not the marker's own.
        compat: see `level_of`.

    Raises:
        DataError: a value that cannot be read; the message names the variable, not the value.

    Example:
        >>> read_levels({"age": "061Y", "gender": "male", "afp": ">20"}).unsettled
        ('afp',)
    """
    columns: list[str] = []
    missing: list[str] = []
    unsettled: list[str] = []
    age = read_age(row.get("age", ""))
    decade = sum(age >= cut for cut in AGE_CUTS)
    if decade:
        columns.append(f"Age_age{decade + 1}")
    if read_gender(row.get("gender", "")):
        columns.append("Gender_male")
    for variable, marker in MARKERS.items():
        try:
            reading = read_number(row.get(variable, ""))
        except DataError as error:
            raise DataError(f"{variable} cannot be read", expected=error.expected) from None
        if reading is None:
            missing.append(variable)
            continue
        level = level_of(variable, reading, unit=(units or {}).get(variable), compat=compat)
        if level is None:
            unsettled.append(variable)
        else:
            columns.append(f"{marker.prefix}_{level}")
    positive = read_hbsag(row.get("hbsag", ""))
    if positive is None:
        missing.append("hbsag")
    else:
        columns.append("HBsAg_positive" if positive else "HBsAg_negative")
    return Levels(tuple(columns), tuple(missing), tuple(unsettled))


def encode(
    row: Mapping[str, str], *, units: Mapping[str, str] | None = None, compat: Compat = "strict"
) -> ClinicalMatrix:
    """One patient's values as the 20 columns; see `read_levels`.

    Returns:
        One row of 20 zeros and ones.
    """
    return as_columns(read_levels(row, units=units, compat=compat))


def as_columns(levels: Levels) -> ClinicalMatrix:
    """What was read, as one row of 20 zeros and ones."""
    out = np.zeros((1, len(COLUMNS)), dtype=np.float32)
    out[0, [COLUMNS.index(column) for column in levels.columns]] = 1.0
    return out
