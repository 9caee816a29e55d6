"""Clinical values drawn by class, and written as hospitals export them.

Directions are those that the paper's cut-offs are for: AFP raised and HBsAg positive in HCC,
CA19-9 raised in ICC, CEA raised in metastasis, platelets low with cirrhosis. All classes
overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from stic_core.phantom.centres import Centre


@dataclass(frozen=True, slots=True)
class Host:
    """Who the patient is, before any laboratory value.

    Args:
        age: years.
        male: as the record says.
        cirrhosis, hepatitis: they show in the liver, the platelets and HBsAg.
    """

    age: int
    male: bool
    cirrhosis: bool
    hepatitis: bool


@dataclass(frozen=True, slots=True)
class Rates:
    """A class's hosts and markers; markers are log-normal: median and standard deviation of the logarithm."""

    age: tuple[float, float]
    male: float
    cirrhosis: float
    hepatitis: float
    tbil: tuple[float, float]
    afp: tuple[float, float]
    ca199: tuple[float, float]
    cea: tuple[float, float]
    ca125: tuple[float, float]


# Sex, cirrhosis and hepatitis as counted in MCT-LTDiag (see `lesion`), but for the men among
# metastases: half of that cohort's are breast cancers, so a general 0.55 is taken instead.
RATES: Mapping[str, Rates] = MappingProxyType(
    {
        "HCC": Rates((57, 11), 0.796, 0.66, 0.845, (12, 0.5), (40, 2.5), (16, 0.9), (2.5, 0.6), (17, 0.9)),
        "ICC": Rates((61, 10), 0.470, 0.14, 0.340, (20, 0.8), (3.2, 0.7), (60, 1.9), (3.2, 1.0), (24, 1.1)),
        "META": Rates((60, 12), 0.550, 0.02, 0.014, (11, 0.45), (3.0, 0.6), (19, 1.4), (9, 1.7), (18, 1.0)),
        "BENIGN": Rates(
            (48, 12), 0.208, 0.01, 0.083, (11, 0.4), (2.8, 0.5), (12, 0.8), (1.8, 0.5), (14, 0.6)
        ),
    }
)

HBSAG_IN_HEPATITIS = 0.9  # the rest is hepatitis C
HBSAG_OTHERWISE = 0.03


def draw_host(*, label: str, rng: np.random.Generator) -> Host:
    """A patient of a class."""
    rates = RATES[label]
    return Host(
        age=int(np.clip(round(rng.normal(*rates.age)), 18, 92)),
        male=bool(rng.uniform() < rates.male),
        cirrhosis=bool(rng.uniform() < rates.cirrhosis),
        hepatitis=bool(rng.uniform() < rates.hepatitis),
    )


def draw_clinical(*, label: str, host: Host, centre: Centre, rng: np.random.Generator) -> Mapping[str, str]:
    """Raw texts by manifest column; an empty text is a missing value."""
    rates = RATES[label]

    def value(median: float, spread: float) -> float:
        return float(median * np.exp(spread * rng.standard_normal()))

    positive = bool(rng.uniform() < (HBSAG_IN_HEPATITIS if host.hepatitis else HBSAG_OTHERWISE))
    texts = {
        "age": f"{host.age:03d}Y" if rng.uniform() < 0.1 else str(host.age),
        "gender": "male" if host.male else "female",
        "plt": str(round(value(*((118, 0.42) if host.cirrhosis else (215, 0.30))))),
        "tbil": f"{value(rates.tbil[0] * (1.4 if host.cirrhosis else 1.0), rates.tbil[1]):.1f}",
        "afp": _bounded(value(*rates.afp), bottom=0.6, top=float(centre.afp_top)),
        "ca199": _bounded(value(*rates.ca199), bottom=0.6, top=12_000.0),
        "cea": _bounded(value(*rates.cea), bottom=0.5, top=1_500.0),
        "ca125": _bounded(value(*rates.ca125), bottom=0.6, top=5_000.0),
        "hbsag": str(
            rng.choice(("+", "(+)", "阳性") if positive else ("-", "(-)", "阴性"), p=(0.6, 0.3, 0.1))
        ),
    }
    # One draw a column whether or not it decides: rates may then differ by centre and the
    # values that remain are still the same ones.
    for column, rate in centre.missing:
        if rng.uniform() < rate:
            texts[column] = ""
    return MappingProxyType(texts)


def _bounded(value: float, *, bottom: float, top: float) -> str:
    """A number, thousands with a comma, and a bound where the assay ends: `3.2`, `1,210.4`, `>1210`, `<0.6`."""
    if value > top:
        return f">{top:.0f}"
    if value < bottom:
        return f"<{bottom}"
    return f"{value:,.1f}"
