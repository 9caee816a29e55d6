"""Clinical values as hospitals write them, and the paper's 20 columns made of them.

The vocabulary and its order are fixed here and never derived from one site's data: a site
that lacks a level would get another width. A missing value is zero in all its columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from stic_core.data.clinical_texts import (
    Decimal,
    Reading,
    is_blank,
    number_readings,
    read_age,
    read_gender,
    read_hbsag,
)
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
        spelled: units as texts have them, lower case and without spaces, by their names in `to_unit`.
        most: a larger value is none: an identifier, a date, or another unit.
        closed: whether a value equal to a bound belongs to the level above it.
    """

    prefix: str
    unit: str
    levels: tuple[tuple[str, float], ...]
    to_unit: Mapping[str, float]
    spelled: Mapping[str, str]
    most: float
    closed: bool = True

    def level(self, value: float) -> str:
        """The level of a value in `unit`."""
        for name, bound in self.levels:
            if value > bound or (self.closed and value == bound):
                return name
        return self.levels[-1][0]

    def is_impossible(self, reading: Reading, *, unit: str | None) -> bool:
        """Whether no patient has this value in this unit, or in the one that the text itself names."""
        return reading.value * self.to_unit[reading.unit or unit or self.unit] > self.most


_PER_ML = {"ng/ml": "ng/mL", "ug/l": "ug/L", "mcg/l": "ug/L"}
_UNITS_PER_ML = {
    **dict.fromkeys(("u/ml", "iu/ml", "e/ml"), "U/mL"),
    **dict.fromkeys(("ku/l", "kiu/l", "ke/l"), "kU/L"),
}
_PLATELETS = {
    **{f"{x}10{power}/l": "10^9/L" for x in ("", "x", "*") for power in ("^9", "*9", "e9")},
    **{f"{x}10{power}/ul": "10^9/L" for x in ("", "x", "*") for power in ("^3", "*3", "e3")},
    **dict.fromkeys(("g/l", "gpt/l", "giga/l", "k/ul", "tsd/ul", "tsd./ul", "/nl"), "10^9/L"),
    **dict.fromkeys(("/ul", "/mm3", "/mm^3", "/cmm"), "/uL"),
}

# Thresholds of the authors' code. The platelets' abnormal side is the low one (<= 100).
# Units: AFP is in ng/mL (the authors' docstring says umol/L, which is a slip).
MARKERS = MappingProxyType(
    {
        "plt": Marker(
            "PLT",
            "10^9/L",
            (("normal", 100.0), ("abnormal", 0.0)),
            {"10^9/L": 1.0, "/uL": 0.001},
            _PLATELETS,
            most=5e3,
            closed=False,
        ),
        "tbil": Marker(
            "TBIL",
            "umol/L",
            (("abnormal", 17.1), ("normal", 0.0)),
            {"umol/L": 1.0, "mg/dL": 17.1},
            {"umol/l": "umol/L", "mcmol/l": "umol/L", "mg/dl": "mg/dL"},
            most=5e3,
        ),
        "afp": Marker(
            "AFP",
            "ng/mL",
            (("abnormal1", 400.0), ("abnormal2", 7.0), ("normal", 0.0)),
            {"ng/mL": 1.0, "ug/L": 1.0},
            _PER_ML,
            most=1e8,
        ),
        "ca199": Marker(
            "CA199",
            "U/mL",
            (("abnormal", 39.0), ("normal", 0.0)),
            {"U/mL": 1.0, "kU/L": 1.0},
            _UNITS_PER_ML,
            most=1e8,
        ),
        "cea": Marker(
            "CEA",
            "ng/mL",
            (("abnormal", 10.0), ("normal", 0.0)),
            {"ng/mL": 1.0, "ug/L": 1.0},
            _PER_ML,
            most=1e7,
        ),
        "ca125": Marker(
            "CA125",
            "U/mL",
            (("abnormal", 35.0), ("normal", 0.0)),
            {"U/mL": 1.0, "kU/L": 1.0},
            _UNITS_PER_ML,
            most=1e7,
        ),
    }
)

AGE_CUTS = (40, 50, 60, 70)
"""Years: below the first is the reference level, which has no column."""


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


def level_of_readings(
    variable: str, readings: Sequence[Reading], *, unit: str | None = None, compat: Compat = "strict"
) -> str | None:
    """The one level that all readings of a text have; see `level_of`.

    Args:
        unit: of the site; the one that the text names counts more.

    Raises:
        DataError: they have two; the message has both numbers.
    """
    levels = {level_of(variable, one, unit=one.unit or unit, compat=compat) for one in readings}
    if len(levels) > 1:
        raise DataError(
            f"{variable} can be read as two numbers",
            got=" or ".join(f"{one.value:.10g}" for one in readings),
            expected="a text with one meaning",
            advice="Set dataset.decimal in site.yaml to comma or point, the laboratory's decimal mark.",
        )
    return levels.pop()


@dataclass(frozen=True, slots=True)
class Levels:
    """One patient's values, read.

    Args:
        columns: of `COLUMNS`, those that are 1.
        missing: variables without a value, or with a text that is not understood.
        unsettled: variables whose censored value leaves the level open; they count as missing.
        unread: those of `missing` that have a text.
    """

    columns: tuple[str, ...]
    missing: tuple[str, ...]
    unsettled: tuple[str, ...]
    unread: tuple[str, ...] = ()


def read_levels(
    row: Mapping[str, str],
    *,
    units: Mapping[str, str] | None = None,
    compat: Compat = "strict",
    decimal: Decimal | Mapping[Any, Decimal] | None = None,
) -> Levels:
    """Read one patient's values.

    Args:
        row: texts by the names of `VARIABLES`; a missing key is a missing value.
        units: the site's unit by variable, where it is not the marker's own.
        compat: see `level_of`.
        decimal: the laboratory's decimal mark, for all variables or by variable.

    Raises:
        DataError: an age or a gender that cannot be read, or a number that can be read as two; the
            message names the variable, and of its text at most numbers.

    Example:
        >>> read_levels({"age": "061Y", "gender": "male", "afp": ">20", "cea": "haemolysed"}).unread
        ('cea',)
    """
    columns: list[str] = []
    missing: list[str] = []
    unsettled: list[str] = []
    unread: list[str] = []
    age = read_age(row.get("age", ""))
    decade = sum(age >= cut for cut in AGE_CUTS)
    if decade:
        columns.append(f"Age_age{decade + 1}")
    if read_gender(row.get("gender", "")):
        columns.append("Gender_male")
    for variable, marker in MARKERS.items():
        text = row.get(variable, "")
        if is_blank(text):
            missing.append(variable)
            continue
        unit = (units or {}).get(variable)
        mark = decimal.get(variable) if isinstance(decimal, Mapping) else decimal
        readings = number_readings(text, decimal=mark, units=marker.spelled)
        level = level_of_readings(variable, readings, unit=unit, compat=compat) if readings else None
        if all(marker.is_impossible(one, unit=unit) for one in readings):  # also where there is none
            missing.append(variable)
            unread.append(variable)
            continue
        if level is None:
            unsettled.append(variable)
        else:
            columns.append(f"{marker.prefix}_{level}")
    text = row.get("hbsag", "")
    positive = read_hbsag(text)
    if positive is not None:
        columns.append("HBsAg_positive" if positive else "HBsAg_negative")
    else:
        missing.append("hbsag")
        unread += [] if is_blank(text) else ["hbsag"]
    return Levels(tuple(columns), tuple(missing), tuple(unsettled), tuple(unread))


def encode(
    row: Mapping[str, str],
    *,
    units: Mapping[str, str] | None = None,
    compat: Compat = "strict",
    decimal: Decimal | Mapping[Any, Decimal] | None = None,
) -> ClinicalMatrix:
    """One patient's values as the 20 columns; see `read_levels`.

    Returns:
        One row of 20 zeros and ones.
    """
    return as_columns(read_levels(row, units=units, compat=compat, decimal=decimal))


def as_columns(levels: Levels) -> ClinicalMatrix:
    """What was read, as one row of 20 zeros and ones."""
    out = np.zeros((1, len(COLUMNS)), dtype=np.float32)
    out[0, [COLUMNS.index(column) for column in levels.columns]] = 1.0
    return out
