"""Which phase of a contrast study a series description names: a guess, never proof."""

from __future__ import annotations

import re

# Most telling first; "late arterial" is arterial, "delayed" none of the three.
_PHASE_WORDS = (
    ("other", re.compile(r"DELAY|EQUILIB|EXCRET|\bEQ\b|SPÄT(?!ART)|延迟|平衡")),
    ("art", re.compile(r"\bART|ARTERI|\bAP\b|\bHAP\b|动脉")),
    ("pv", re.compile(r"PORTAL|VENOUS|VENÖS|\bVEN\b|\bPVP?\b|\bPVPH|静脉|门脉")),
    (
        "nc",
        re.compile(
            r"NON[- ]?CON|\bNC\b|\bNECT\b|PLAIN|NATIV|UNENH|WITHOUT|\bW/?O\b|PRE[- ]?CON|OHNE KM|平扫"
        ),
    ),
)

PHASE_NAMES = {"nc": "non-contrast", "art": "arterial", "pv": "portal venous", "other": "a late phase"}


def guess_phase(description: str) -> str:
    """The phase that a series description names, "other" for a late one, "" for none.

    Example:
        >>> guess_phase("Abdomen late ARTERIAL 5.0"), guess_phase("delayed"), guess_phase("Liver")
        ('art', 'other', '')
    """
    text = description.upper().replace("_", " ")
    found = [phase for phase, words in _PHASE_WORDS if words.search(text)]
    return found[0] if len(found) == 1 or (found and found[0] == "other") else ""
