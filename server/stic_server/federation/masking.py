"""Secure aggregation at the server, pure: what a site's keys and shares must be, and how a sum is opened."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stic_core.config import SecureAggregationConfig
from stic_core.errors import FederationError, SiteReportError
from stic_core.privacy.secure_aggregation import fixed_point
from stic_core.privacy.secure_aggregation.exchange import MaskedExchange
from stic_core.privacy.secure_aggregation.keys import (
    agreed_key,
    derived_key,
    is_usable,
    public_of,
    seed_digest,
)
from stic_core.privacy.secure_aggregation.masks import RingVector, from_bytes, without_own, without_pairs
from stic_core.privacy.secure_aggregation.shares import reconstruct
from stic_core.protocol.compression import WireArray
from stic_core.protocol.mask_messages import (
    HELD_OUT_ROUND,
    MASKED_COUNTS,
    SiteKeys,
    UnmaskReport,
    keys_statement,
    survivors_statement,
)
from stic_core.protocol.messages import PooledAnswer, RoundReport, RunPlan
from stic_core.system.keys import signed_by
from stic_core.tensors.flat import FlatArray


@dataclass(frozen=True, slots=True)
class SharedKeys:
    """An exchange of keys that is complete: a round can be masked with it.

    Args:
        members: whose keys all others have.
        sealed: shares by the site that they are from, then by the site that can read them. Those
            sites mask the round together.
    """

    exchange: MaskedExchange
    members: tuple[SiteKeys, ...]
    sealed: Mapping[str, Mapping[str, str]]

    def for_site(self, site: str) -> dict[str, str]:
        """The shares that one site can read, by sender."""
        return {sender: shares[site] for sender, shares in sorted(self.sealed.items()) if sender != site}


@dataclass(frozen=True, slots=True)
class MaskedSum:
    """The sum of a round's masked updates, or of the sites' held-out counts, before its masks are taken off.

    Args:
        question: digest of what was asked.
        members: whose keys were exchanged; their patients are the denominator of all shares.
        together: sites that masked the round together.
        signatures: of the survivors' list, by site.
        reports: of the survivors, whose updates or counts are in the sum.
        total: shape (p + `MASKED_COUNTS`,), or as many as there are counts.
    """

    exchange: MaskedExchange
    question: str
    members: tuple[SiteKeys, ...]
    together: tuple[str, ...]
    signatures: Mapping[str, str]
    reports: Mapping[str, RoundReport | PooledAnswer]
    total: RingVector = field(repr=False)

    @property
    def survivors(self) -> tuple[str, ...]:
        """Whose updates are in the sum, in the order of names."""
        return tuple(sorted(self.reports))


@dataclass(frozen=True, slots=True)
class MeanChange:
    """What a round changed, over all sites that are in the sum.

    Args:
        change: mean weighted by training patients, float64 (p,).
        clipped: values that were beyond the plan's bound, over all sites.
        scaled_down: sites whose update was longer than the plan's or their own bound.
    """

    change: np.ndarray
    clipped: int
    scaled_down: int


def check_keys(keys: SiteKeys, *, site: str, plan: RunPlan, exchange: MaskedExchange, patients: int) -> None:
    """A site's keys for a masked round.

    Args:
        patients: that it described, for training or held out.

    Raises:
        SiteReportError: another site's, not signed, of small order, or for other patients.
    """
    right = keys.site == site and signed_by(
        plan.sites.get(site, ""), keys_statement(exchange, keys), signature=keys.signature
    )
    if not right:
        raise SiteReportError("its keys for masks are not signed with the key in the plan", site=site)
    if not all(is_usable(base64.b64decode(key)) for key in (keys.cipher_key, keys.mask_key)):
        raise SiteReportError("its keys for masks cannot be used", site=site)
    if keys.patients != patients:
        kind = "held-out" if exchange.round == HELD_OUT_ROUND else "training"
        raise SiteReportError(
            f"claims {kind} patients that it did not announce",
            site=site,
            got=keys.patients,
            expected=patients,
        )


def check_shares(shares: Mapping[str, str], *, site: str, members: Sequence[SiteKeys]) -> None:
    """A site's sealed shares: one for each other member.

    Raises:
        SiteReportError: some are missing, or too many.
    """
    expected = {member.site for member in members} - {site}
    if shares.keys() != expected:
        raise SiteReportError(
            "its shares for a masked round are not those that it was asked for",
            site=site,
            got=", ".join(shares) or "none",
            expected=", ".join(sorted(expected)),
        )


def masked_values(
    report: RoundReport | PooledAnswer, wire: WireArray | None, *, site: str, size: int
) -> RingVector:
    """A site's masked update or counts, as they came.

    Args:
        size: numbers in it.

    Raises:
        SiteReportError: another length, type or digest.
    """
    expected = 4 * size
    if wire is None or wire.dtype != np.uint8 or wire.shape != (expected,):
        raise SiteReportError(
            "its masked values have the wrong type or length",
            site=site,
            got="nothing" if wire is None else f"{wire.dtype} {wire.shape}",
            expected=f"uint8 ({expected},)",
        )
    if report.weights_digest != hashlib.sha256(wire.tobytes()).hexdigest():
        raise SiteReportError("its masked values do not match the digest that it stated", site=site)
    return from_bytes(wire.astype(np.uint8, copy=False))


def valid_signature(signature: str, *, site: str, plan: RunPlan, masked: MaskedSum) -> bool:
    """Whether a site signed the list of this sum's survivors."""
    statement = survivors_statement(masked.exchange, question=masked.question, survivors=masked.survivors)
    return signed_by(plan.sites.get(site, ""), statement, signature=signature)


def unmask(masked: MaskedSum, reveals: Mapping[str, UnmaskReport], *, plan: RunPlan) -> RingVector:
    """Take the masks off a sum.

    Args:
        reveals: the survivors' shares, by site.

    Raises:
        FederationError: too few shares of a site's secret, or wrong ones; names it.
    """
    keys = {member.site: member for member in masked.members}
    own, total = [], masked.total
    for site in masked.survivors:
        shares = {holder: report.seeds[site] for holder, report in reveals.items() if site in report.seeds}
        seed = _secret(
            shares, of=site, plan=plan, is_right=lambda one, k=keys[site]: seed_digest(one) == k.seed_digest
        )
        statement = masked.exchange.statement("own-mask", masked.question, site)
        own.append(derived_key(seed, statement=statement))
    total = without_own(total, own)
    for absent in sorted(set(masked.together) - set(masked.survivors)):
        shares = {
            holder: report.mask_keys[absent]
            for holder, report in reveals.items()
            if absent in report.mask_keys
        }
        public = base64.b64decode(keys[absent].mask_key)
        private = _secret(
            shares, of=absent, plan=plan, is_right=lambda one, public=public: public_of(one) == public
        )
        pairs = {
            site: agreed_key(
                private,
                base64.b64decode(keys[site].mask_key),
                statement=masked.exchange.statement("pair-mask", masked.question, *sorted((absent, site))),
            )
            for site in masked.survivors
        }
        total = without_pairs(total, absent=absent, pairs=pairs)
    return total


def _secret(shares: Mapping[str, str], *, of: str, plan: RunPlan, is_right: Callable[[bytes], bool]) -> bytes:
    number = {site: place for place, site in enumerate(sorted(plan.sites), start=1)}
    numbered = {number[holder]: base64.b64decode(share) for holder, share in shares.items()}
    secret = reconstruct(numbered, threshold=plan.threshold, is_right=is_right)
    if secret is None:
        raise FederationError(
            "the sum cannot be opened yet",
            got=f"{len(numbered)} shares of {of}'s masks",
            expected=f"{plan.threshold} that fit together",
            advice=f"They come from the other hospitals; if all have answered, {of} or one of them sent wrong shares.",
        )
    return secret


def mean_change(
    values: RingVector, masked: MaskedSum, *, config: SecureAggregationConfig, start: FlatArray
) -> MeanChange:
    """The mean update from a sum without masks.

    Args:
        values: of `unmask`.
        start: the weights that the round began with.

    Raises:
        FederationError: no training patients; or a mean that is longer than any honest site's update can be.
    """
    patients = {member.site: member.patients for member in masked.members}
    share = sum(patients[site] for site in masked.survivors) / max(sum(patients.values()), 1)
    if not share:
        raise FederationError("no site has training patients", got=f"sites {', '.join(masked.survivors)}")
    counts = values[-MASKED_COUNTS:]
    change = fixed_point.decode(values[:-MASKED_COUNTS], share=share, bound=config.clip)
    norm, before = (float(np.linalg.norm(one)) for one in (change, start.astype(np.float64)))
    if norm > 1.001 * config.max_update_norm * before:
        raise FederationError(
            "the sum of the round is not one of honest updates",
            got=f"a mean change of norm {norm:.4g}",
            expected=f"at most {config.max_update_norm:g} times the model's {before:.4g}, to which each site scales "
            "its own (secure_aggregation.max_update_norm)",
            advice="One of the hospitals sent something else; masks hide which. Compare the sites' installations.",
        )
    return MeanChange(change, int(counts[0]), int(counts[1]))


def check_reveal(report: UnmaskReport, *, site: str, masked: MaskedSum) -> None:
    """A survivor's shares: of survivors' seeds and of the others' keys, readable.

    Raises:
        SiteReportError: shares that it was not asked for.
    """
    survivors, absent = set(masked.survivors), set(masked.together) - set(masked.survivors)
    if not report.seeds.keys() <= survivors or not report.mask_keys.keys() <= absent:
        raise SiteReportError("reveals shares that it was not asked for", site=site)


def following_exchange(exchange: MaskedExchange) -> MaskedExchange:
    """The exchange whose keys come with a round's masked updates: for the next round."""
    return MaskedExchange(exchange.run_id, exchange.plan, exchange.round + 1, exchange.serial + 1)
