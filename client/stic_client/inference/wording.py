"""The model's 20 columns in a reader's words."""

from __future__ import annotations

import re
from types import MappingProxyType

from stic_core.data.clinical import AGE_CUTS, MARKERS

TITLES = MappingProxyType(
    {
        "age": "Age",
        "gender": "Sex",
        "plt": "Platelets",
        "tbil": "Total bilirubin",
        "afp": "AFP",
        "ca199": "CA 19-9",
        "cea": "CEA",
        "ca125": "CA 125",
        "hbsag": "HBsAg",
    }
)
"""By the names of `VARIABLES`."""

PHASE_NAMES = MappingProxyType({"nc": "Non-contrast", "art": "Arterial", "pv": "Portal venous"})


UNITS = MappingProxyType({"10^9/L": "× 10⁹/L", "umol/L": "µmol/L", "/uL": "/µL", "ug/L": "µg/L"})
"""Units as they are set in print; others are their own."""


_LABORATORY = re.compile(rf"\b({'|'.join([*MARKERS, 'hbsag'])})\b")


def sentence(text: str) -> str:
    """A warning as a sentence of its own, with the clinical value's name as readers know it.

    Example:
        >>> sentence("afp is censored and does not determine a level")
        'AFP is censored and does not determine a level.'
        >>> sentence("registration of pv was rejected")
        'Registration of pv was rejected.'
    """
    text = _LABORATORY.sub(lambda found: TITLES[found[0]], text).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."


def age_words(columns: tuple[str, ...]) -> str:
    """The age group that the model was told.

    Example:
        >>> age_words(("Age_age4",)), age_words(()), age_words(("Age_age5",))
        ('60 to 69 years', 'under 40 years', '70 years or older')
    """
    group = next((int(column.removeprefix("Age_age")) for column in columns if column.startswith("Age_")), 1)
    if group == 1:
        return f"under {AGE_CUTS[0]} years"
    if group == len(AGE_CUTS) + 1:
        return f"{AGE_CUTS[-1]} years or older"
    return f"{AGE_CUTS[group - 2]} to {AGE_CUTS[group - 1] - 1} years"


def level_words(variable: str, columns: tuple[str, ...]) -> str:
    """The level of a laboratory value that the model was told.

    Args:
        columns: must name a level of this value.

    Example:
        >>> level_words("afp", ("AFP_abnormal2",))
        'AFP raised, level 2 (7 to under 400 ng/mL)'
        >>> level_words("plt", ("PLT_abnormal",)), level_words("cea", ("CEA_normal",))
        ('Platelets low (100 × 10⁹/L or less)', 'CEA normal (under 10 ng/mL)')
    """
    marker = MARKERS[variable]
    unit = UNITS.get(marker.unit, marker.unit)
    names = [name for name, _ in marker.levels]
    name = next(name for name in names if f"{marker.prefix}_{name}" in columns)
    at = names.index(name)
    bound, above = marker.levels[at][1], marker.levels[at - 1][1] if at else None
    if above is None:
        span = f"{bound:g} {unit} or more" if marker.closed else f"more than {bound:g} {unit}"
    elif bound == 0:
        span = f"under {above:g} {unit}" if marker.closed else f"{above:g} {unit} or less"
    else:
        span = f"{bound:g} to under {above:g} {unit}"
    if name == "normal":
        word = "normal"
    else:
        # Platelets are abnormal where they are few: their abnormal level is the lowest one.
        word = "low" if bound == 0 else "raised"
        word += f", level {name[-1]}" if name[-1].isdigit() else ""
    return f"{TITLES[variable]} {word} ({span})"


def told(variable: str, columns: tuple[str, ...]) -> str:
    """What the model was told of a variable that has a value."""
    if variable == "age":
        return age_words(columns)
    if variable == "gender":
        return "male" if "Gender_male" in columns else "female"
    if variable == "hbsag":
        return "HBsAg positive" if "HBsAg_positive" in columns else "HBsAg negative"
    return level_words(variable, columns)
