"""What a site keeps of its masks between messages, on the disk before an answer leaves; it holds secrets."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from stic_core.errors import DataError
from stic_core.protocol.mask_messages import SiteKeys
from stic_core.system.files import PRIVATE, write_atomically


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KeyExchange(_Frozen):
    """One exchange of keys.

    Args:
        secrets: cipher key, mask key and seed, base64.
        members: keys of all that take part; empty until the secrets are shared.
        kept: the shares of its own secrets that this site keeps, base64.
        sealed: those of the other members, by who can read them.
    """

    round: int
    serial: int
    keys: SiteKeys
    secrets: tuple[str, str, str]
    members: tuple[SiteKeys, ...] = ()
    kept: str = ""
    sealed: dict[str, str] = {}


class MaskedUpdate(_Frozen):
    """A round whose masked update left.

    Args:
        question: `question_digest` of what was asked.
        received: the others' sealed shares, by sender; with this site they masked the round together.
        survivors: the list that this site signed.
        only_with: of held-out counts, the list that an earlier sum of nearly the same answers was over; any other
            list would give the difference away. None where there was none.
    """

    exchange: KeyExchange
    question: str
    received: dict[str, str]
    survivors: tuple[str, ...] | None = None
    only_with: tuple[str, ...] | None = None

    @property
    def together(self) -> set[str]:
        """Who masked the round together."""
        return {*self.received, self.exchange.keys.site}


class MaskState(_Frozen):
    """All that must survive a kill.

    Args:
        serial: the highest one so far.
        coming: keys for a round that was not masked yet.
        sent: the last round that was.
    """

    serial: int = 0
    coming: KeyExchange | None = None
    sent: MaskedUpdate | None = None


def read_state(path: Path) -> MaskState:
    """The state as it was written last; a fresh one where there is none.

    Raises:
        DataError: the file is damaged.
    """
    try:
        return MaskState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return MaskState()
    except ValidationError:
        raise DataError(
            f"{path.parent.name}/{path.name} is damaged",
            advice="Delete it: the site is missing from the round that it was in, and takes part in the next one.",
        ) from None


def write_state(state: MaskState, path: Path) -> None:
    """Write it, whole and on the disk before this returns, readable by its owner alone."""
    write_atomically(path, state.model_dump_json(), mode=PRIVATE)
