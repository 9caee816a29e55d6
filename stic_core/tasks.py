"""Which classes are told apart; a class's index is its place in the task, at every site.

A task is a choice of classes: patients of others take no part in its runs.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from stic_core.errors import UsageError
from stic_core.system.names import did_you_mean


def _distinct(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(classes)) != len(classes):
        raise ValueError("each class once")
    return classes


ClassName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,16}$")]
"""A label as manifests write it."""


class Task(BaseModel):
    """A classification task.

    Args:
        name: how configurations and reports call it.
        classes: labels as manifests write them; their order fixes the class indices.

    Example:
        >>> Task(name="liver", classes=("HCC", "OTHER")).index("OTHER")
        1
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    classes: Annotated[
        tuple[ClassName, ...],
        Field(min_length=2, max_length=16),
        AfterValidator(_distinct),
    ]

    def index(self, label: str) -> int:
        """The class index of a label.

        Raises:
            UsageError: the task has no such class.
        """
        try:
            return self.classes.index(label)
        except ValueError:
            raise UsageError(
                f"task {self.name} has no such class", got=repr(label), expected=" or ".join(self.classes)
            ) from None


def meant(label: str, *, classes: Iterable[str]) -> str | None:
    """The class that a label is a slip of, where there is one: `hcc`, `HCCC`, `Metastasis`.

    A heuristic: it only finds labels that somebody should look at.

    Args:
        classes: in their right spelling.

    Example:
        >>> meant("Hcc", classes=("HCC", "ICC")), meant("FNH", classes=("HCC", "ICC"))
        ('HCC', None)
    """
    folded = {_folded(name): name for name in classes}
    text = _folded(label)
    begins = [name for name in folded if len(name) > 3 and text.startswith(name)]
    close = difflib.get_close_matches(text, folded, n=1, cutoff=0.75)
    found = next(iter([*begins, *close]), None)
    return None if found is None or folded[found] == label else folded[found]


def _folded(label: str) -> str:
    return re.sub(r"[^0-9a-z]", "", unicodedata.normalize("NFKC", label).lower())


# The three tasks of the paper (Gao et al., J Hematol Oncol 2021, 14:154).
TASKS = MappingProxyType(
    {
        task.name: task
        for task in (
            Task(name="malignant", classes=("HCC", "ICC", "META")),
            Task(name="hcc-icc", classes=("HCC", "ICC")),
            Task(name="benign-malignant", classes=("BENIGN", "MALIGNANT")),
        )
    }
)

KNOWN_LABELS = tuple(dict.fromkeys(name for task in TASKS.values() for name in task.classes))
"""Every class of `TASKS`."""


def task_named(text: str) -> Task:
    """One of the paper's tasks.

    Raises:
        UsageError: there is none of this name.

    Example:
        >>> task_named("hcc-icc").classes
        ('HCC', 'ICC')
    """
    if text not in TASKS:
        raise UsageError(
            "no such task", got=repr(text), expected=" or ".join(TASKS), advice=did_you_mean(text, TASKS)
        )
    return TASKS[text]
