"""The messages of secure aggregation beside the round itself: keys, shares, who is left, and unmasking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from stic_core.config import SiteName
from stic_core.privacy.secure_aggregation.exchange import MaskedExchange
from stic_core.protocol.fields import Bytes32, Digest, MaskedRound, Message, RunId, Sealed, Serial, Signature
from stic_core.statistics.bounds import Count

HELD_OUT_ROUND = 0
"""The number of the held-out evaluation among masked rounds: no round of training has it."""

MASKED_COUNTS = 2
"""Whole numbers behind a masked update, in the same sum: values that were clipped, updates that were scaled down."""


class SiteKeys(BaseModel):
    """A site's public keys for one masked round, signed by the key that the plan names.

    Args:
        site: its name.
        patients: its training patients, the weight of its update; its held-out patients for the evaluation.
        cipher_key, mask_key: X25519; see `Secrets`.
        seed_digest: of its own mask's seed.
        signature: of `keys_statement`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: SiteName
    patients: Count
    cipher_key: Bytes32
    mask_key: Bytes32
    seed_digest: Digest
    signature: Signature


class Masking(BaseModel):
    """What a site needs for masking the update of a round.

    Args:
        serial: of the exchange of keys.
        shares: sealed for this site, by the site that they are from; those sites mask the round together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    serial: Serial
    shares: Annotated[dict[SiteName, Sealed], Field(max_length=1000)]


class MaskKeys(Message):
    """Make keys for a masked round: the first one, or one that is repeated or has other sites.

    Args:
        serial: of this exchange of keys, higher than any before in this run.
    """

    kind: Literal["mask-keys"] = "mask-keys"
    run_id: RunId
    plan_digest: Digest
    round: MaskedRound
    serial: Serial


class MaskShares(Message):
    """Share the secrets of your masks with these sites, sealed for each.

    Args:
        members: the keys of all sites that take part, yours too.
    """

    kind: Literal["mask-shares"] = "mask-shares"
    run_id: RunId
    plan_digest: Digest
    round: MaskedRound
    serial: Serial
    members: Annotated[tuple[SiteKeys, ...], Field(max_length=1000)]


class Survivors(Message):
    """Sign who is left: of these sites the server has a masked update.

    Args:
        serial: of the round's exchange of keys.
        survivors: in the order of names.
        following: keys for the next round, whose secrets are to be shared as with `MaskShares`; empty where
            there are none.
    """

    kind: Literal["survivors"] = "survivors"
    run_id: RunId
    plan_digest: Digest
    round: MaskedRound
    serial: Serial
    survivors: Annotated[tuple[SiteName, ...], Field(max_length=1000)]
    following: Annotated[tuple[SiteKeys, ...], Field(max_length=1000)] = ()


class Unmask(Message):
    """Reveal shares, so that the masks can be taken off the sum.

    Args:
        signatures: of the survivors that you signed, by site.
    """

    kind: Literal["unmask"] = "unmask"
    run_id: RunId
    plan_digest: Digest
    round: MaskedRound
    serial: Serial
    signatures: Annotated[dict[SiteName, Signature], Field(max_length=1000)]


class MaskKeysReport(Message):
    """The site's keys for a masked round."""

    kind: Literal["mask-keys-report"] = "mask-keys-report"
    keys: SiteKeys


class MaskSharesReport(Message):
    """The shares of the site's secrets, sealed for each other site.

    Args:
        shares: by the site that can read them.
    """

    kind: Literal["mask-shares-report"] = "mask-shares-report"
    shares: Annotated[dict[SiteName, Sealed], Field(max_length=1000)]


class SurvivorsReport(Message):
    """The site agrees on who is left.

    Args:
        signature: of `survivors_statement`.
        shares: for the next round, sealed, by the site that can read them; empty where none were asked for.
    """

    kind: Literal["survivors-report"] = "survivors-report"
    signature: Signature
    shares: Annotated[dict[SiteName, Sealed], Field(max_length=1000, default_factory=dict)]


class UnmaskReport(Message):
    """The site's shares: of each site one of the two, never both.

    Args:
        seeds: of survivors' own masks, by site.
        mask_keys: of the keys of sites that are not left, by site.
    """

    kind: Literal["unmask-report"] = "unmask-report"
    seeds: Annotated[dict[SiteName, Bytes32], Field(max_length=1000)]
    mask_keys: Annotated[dict[SiteName, Bytes32], Field(max_length=1000)]


MaskQuestion: TypeAlias = MaskKeys | MaskShares | Survivors | Unmask
MaskReport: TypeAlias = MaskKeysReport | MaskSharesReport | SurvivorsReport | UnmaskReport


def masks_of(number: int, *, sum_of: bool = False) -> str:
    """What is masked, in words: `round 3`, `the held-out evaluation`, or the sum of it."""
    what = "the held-out evaluation" if number == HELD_OUT_ROUND else f"round {number}"
    return f"the sum of {what}" if sum_of else what


def keys_statement(exchange: MaskedExchange, keys: SiteKeys) -> bytes:
    """What a site signs of its keys for a masked round."""
    return exchange.statement(
        "keys", keys.site, str(keys.patients), keys.cipher_key, keys.mask_key, keys.seed_digest
    )


def survivors_statement(exchange: MaskedExchange, *, question: str, survivors: Sequence[str]) -> bytes:
    """What a site signs before masks are taken off.

    Args:
        question: `question_digest` of what it was asked to train, or to evaluate.
    """
    return exchange.statement("survivors", question, *survivors)
