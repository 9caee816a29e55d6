"""The confusion of a model as the report shows it: a grid where it says something, else what was released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stic_core.evaluation.document import Figures
from stic_core.evaluation.figures import Proportion
from stic_core.statistics import Absent
from stic_server.report.wording import absent


def confusion_view(sets: Mapping[str, Figures], *, classes: Sequence[str]) -> dict[str, Any]:
    """Held-out sets as grids, and those of which most counts are withheld as the counts that are not.

    Returns:
        `grids`: (where, figures). `withheld`: (where, figures, counts in words, why there is none).
    """
    grids, withheld = [], []
    for where, figures in sets.items():
        table = figures.confusion
        if isinstance(table, Absent):
            withheld.append((where, figures, [], absent(table)))
            continue
        shown = {
            (true, said): count
            for true, row in zip(classes, table, strict=True)
            for said, count in zip(classes, row, strict=True)
            if isinstance(count, int)
        }
        if 2 * len(shown) >= len(classes) ** 2:
            grids.append((where, figures))
        else:
            words = [f"{true} called {said}: {count}" for (true, said), count in shown.items()]
            withheld.append((where, figures, words, None))
    return {"grids": grids, "withheld": withheld}


def known_rates(figures: Figures, *, classes: Sequence[str]) -> list[tuple[str, Proportion]]:
    """Sensitivities and specificities that were released.

    Of two classes, the specificity of one is the sensitivity of the other, and is left out.
    """
    kinds = {f"Sensitivity {name}": figures.sensitivity[name] for name in classes}
    if len(classes) > 2:
        kinds |= {f"Specificity {name}": figures.specificity[name] for name in classes}
    return [(title, rate) for title, rate in kinds.items() if isinstance(rate, Proportion)]
