"""Which classes are told apart; a class's index is its place in the task, at every site."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from stic_core.errors import UsageError
from stic_core.system.names import meant


def _distinct(classes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(classes)) != len(classes):
        raise ValueError("each class once")
    return classes


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
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,16}$")], ...],
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
            "no such task", got=repr(text), expected=" or ".join(TASKS), advice=meant(text, TASKS)
        )
    return TASKS[text]
