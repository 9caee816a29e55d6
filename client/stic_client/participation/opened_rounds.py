"""Of which hospitals' updates this site let a sum be opened, by plan and round: one set, whatever happens.

Training is deterministic: the same round of the same plan, opened once with a hospital and once without it, would
give that hospital's update as the difference. So this is kept by plan and not by run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from stic_core.errors import DataError, PlanRefusedError
from stic_core.protocol.mask_messages import masks_of
from stic_core.system.files import PRIVATE, write_atomically

_OPENED: TypeAdapter[dict[int, tuple[str, ...]]] = TypeAdapter(dict[int, tuple[str, ...]])


class OpenedRounds:
    """The rounds of one plan, and its held-out evaluation, which is `HELD_OUT_ROUND`.

    Args:
        folder: holds a file for each plan.
        plan: its digest.
    """

    def __init__(self, folder: Path, *, plan: str) -> None:
        self._folder, self._path = folder, folder / f"{plan}.json"

    def of(self, plan: str) -> OpenedRounds:
        """Those of another plan at this site."""
        return OpenedRounds(self._folder, plan=plan)

    def check(self, number: int, sites: Sequence[str]) -> None:
        """Refuse another set of hospitals than the one that a round was opened for.

        Raises:
            PlanRefusedError: names both.
        """
        before = self._read().get(number)
        if before is not None and before != tuple(sites):
            raise PlanRefusedError(
                f"{masks_of(number, sum_of=True)} over other hospitals",
                got=", ".join(sites),
                expected=f"{', '.join(before)}, over which it was opened before",
                advice="A round of a plan is opened once, since the difference of two sums is one hospital's update. "
                "Wait for the sites that are missing, or make a new plan (another seed) and have it approved.",
            )

    def sites(self, number: int) -> tuple[str, ...] | None:
        """The hospitals over which a round was opened; None where it was not."""
        return self._read().get(number)

    def keep(self, number: int, sites: Sequence[str]) -> None:
        """Remember that a round was opened, on the disk before this returns.

        Raises:
            PlanRefusedError: see `check`.
        """
        self.check(number, sites)
        opened = {**self._read(), number: tuple(sites)}
        write_atomically(self._path, _OPENED.dump_json(opened), mode=PRIVATE)

    def _read(self) -> dict[int, tuple[str, ...]]:
        try:
            return _OPENED.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError:
            raise DataError(
                f"{self._path.parent.name}/{self._path.name} is damaged",
                advice="Restore it from a backup: it says of which hospitals sums were opened.",
            ) from None
