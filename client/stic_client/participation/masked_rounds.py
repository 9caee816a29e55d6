"""A site's part in secure aggregation: what it answers once, in which order, and what it never answers together.

Its state is on the disk before an answer leaves. So a site that was killed never masks two updates with the same
keys, signs two lists of survivors, or reveals both shares of one site; at worst it is missing from a round.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from stic_client.participation.mask_state import KeyExchange, MaskedUpdate, MaskState, read_state, write_state
from stic_client.participation.opened_rounds import OpenedRounds
from stic_core.config import POOLED_SITES
from stic_core.errors import PlanRefusedError
from stic_core.privacy.secure_aggregation import fixed_point
from stic_core.privacy.secure_aggregation.exchange import MaskedExchange
from stic_core.privacy.secure_aggregation.keys import (
    KEY_BYTES,
    Secrets,
    agreed_key,
    derived_key,
    is_usable,
    public_of,
    seal,
    seed_digest,
    unseal,
)
from stic_core.privacy.secure_aggregation.masks import masked, to_bytes
from stic_core.privacy.secure_aggregation.shares import split
from stic_core.protocol.compression import WireArray
from stic_core.protocol.mask_messages import (
    HELD_OUT_ROUND,
    MaskKeys,
    MaskKeysReport,
    MaskQuestion,
    MaskReport,
    MaskShares,
    MaskSharesReport,
    SiteKeys,
    Survivors,
    SurvivorsReport,
    Unmask,
    UnmaskReport,
    keys_statement,
    masks_of,
    survivors_statement,
)
from stic_core.protocol.messages import EvaluateHeldOut, RunPlan, TrainRound, question_digest
from stic_core.system.keys import public_line, sign, signed_by
from stic_core.tensors.flat import FlatArray

STATE_FILE: Final = "masks.json"


def check_can_mask(plan: RunPlan, *, site: str, key: ec.EllipticCurvePrivateKey) -> None:
    """Refuse a plan with secure aggregation under which this site's signatures would not be known.

    Raises:
        PlanRefusedError: the plan has another key for it, or none.
    """
    if plan.sites.get(site, "").split()[:2] != public_line(key.public_key()).decode().split()[:2]:
        raise PlanRefusedError(
            f"the key of {site} in the plan",
            got="another one than this site's" if site in plan.sites else "none",
            expected="this site's own, with which it signs",
            advice="The coordinator admits the site's present site.pub and makes a new plan.",
        )


class MaskedRounds:
    """The masked rounds of one run, and its held-out evaluation where that is pooled.

    Args:
        site: its name.
        run_id: of the run.
        plan: with secure aggregation.
        key: gives the site's private key.
        folder: of the run, for what must survive a kill.
        opened: of the plan.
        max_update_norm: the site's own bound, beside the plan's.
    """

    def __init__(
        self,
        *,
        site: str,
        run_id: str,
        plan: RunPlan,
        key: Callable[[], ec.EllipticCurvePrivateKey],
        folder: Path,
        opened: OpenedRounds,
        max_update_norm: float | None = None,
    ) -> None:
        assert plan.secure_aggregation is not None
        self._site, self._run_id, self._plan, self._key = site, run_id, plan, key
        self._config, self._threshold = plan.secure_aggregation, plan.threshold
        self._number = {name: place for place, name in enumerate(sorted(plan.sites))}
        bounds = (self._config.max_update_norm, max_update_norm)
        self._max_norm = min(bound for bound in bounds if bound is not None)
        self._path, self._opened = folder / STATE_FILE, opened
        self._state = read_state(self._path)

    # ---- what the server asks ------------------------------------------------------------

    def answer(self, question: MaskQuestion, *, patients: int) -> MaskReport:
        """Answer a question about keys and masks.

        Args:
            patients: this site's training patients; its held-out patients where the question is about these.

        Raises:
            PlanRefusedError: it is out of order, or would give more than one sum away.
        """
        if question.plan_digest != self._plan.digest:
            raise PlanRefusedError(
                "plan",
                got=question.plan_digest[:12],
                expected=f"{self._plan.digest[:12]}, as accepted",
            )
        match question:
            case MaskKeys():
                return MaskKeysReport(keys=self._make_keys(question, patients=patients))
            case MaskShares():
                return MaskSharesReport(shares=self._share(question.round, question.serial, question.members))
            case Survivors():
                return self._agree(question)
            case Unmask():
                return self._reveal(question)

    def check(self, question: TrainRound | EvaluateHeldOut) -> None:
        """Refuse to compute what could not be masked afterwards.

        Raises:
            PlanRefusedError: no keys were exchanged for it, or they were used.
        """
        self._ready(question)

    def mask(
        self, question: TrainRound, *, base: FlatArray, trained: FlatArray
    ) -> tuple[WireArray, SiteKeys | None]:
        """What training changed, times the site's share of patients, under masks; they are used up by this.

        Args:
            question: that was answered by training.
            base: the global model that training began with.
            trained: after training.

        Returns:
            What travels, and the keys for the next round, if there is one.

        Raises:
            DataError: training diverged.
            PlanRefusedError: see `check`.
        """
        exchange, received = self._ready(question)
        digest = question_digest(question)
        values = self._encoded(exchange, base=base, trained=trained)
        following = (
            self._fresh(question.round + 1, exchange.serial + 1, patients=exchange.keys.patients)
            if question.round < self._plan.rounds
            else None
        )
        self._save(
            MaskState(
                serial=exchange.serial + (following is not None),
                coming=following,
                sent=MaskedUpdate(exchange=exchange, question=digest, received=received),
            )
        )
        wire = self._masked(values, exchange, question=digest, received=received)
        return wire, None if following is None else following.keys

    def mask_counts(
        self, question: EvaluateHeldOut, counts: Sequence[int], *, earlier: Sequence[str]
    ) -> WireArray:
        """Held-out counts under masks; they are used up by this.

        Args:
            question: that the counts answer.
            counts: whole numbers from 0.
            earlier: plans under which nearly the same answers were counted before; such a sum may be opened only
                over the same hospitals again.

        Raises:
            PlanRefusedError: see `check`; or the earlier sums were over different hospitals.
            ProtocolError: a count is too large.
        """
        exchange, received = self._ready(question)
        digest = question_digest(question)
        values = fixed_point.encode_counts(counts, sites=len(self._plan.sites))
        before = {self._opened.of(plan).sites(HELD_OUT_ROUND) for plan in earlier} - {None}
        if len(before) > 1:
            raise PlanRefusedError(
                "held-out counts",
                got="a model that answers nearly as two before, whose sums were over different hospitals",
                expected="one that does not, since the difference of two sums may be one hospital's counts",
            )
        sent = MaskedUpdate(
            exchange=exchange, question=digest, received=received, only_with=next(iter(before), None)
        )
        self._save(MaskState(serial=exchange.serial, sent=sent))
        return self._masked(values, exchange, question=digest, received=received)

    def _masked(
        self, values: np.ndarray, exchange: KeyExchange, *, question: str, received: Mapping[str, str]
    ) -> WireArray:
        _, mask_key, seed = map(base64.b64decode, exchange.secrets)
        context = self._context(exchange)
        pairs = {
            member.site: agreed_key(
                mask_key,
                base64.b64decode(member.mask_key),
                statement=context.statement("pair-mask", question, *sorted((self._site, member.site))),
            )
            for member in exchange.members
            if member.site in received
        }
        own = derived_key(seed, statement=context.statement("own-mask", question, self._site))
        return to_bytes(masked(values, site=self._site, own=own, pairs=pairs))

    # ---- keys and shares -----------------------------------------------------------------

    def _make_keys(self, question: MaskKeys, *, patients: int) -> SiteKeys:
        coming = self._state.coming
        if coming is not None and (coming.round, coming.serial) == (question.round, question.serial):
            return coming.keys
        first = HELD_OUT_ROUND if self._plan.evaluation == "pooled" else 1
        if question.serial <= self._state.serial or not first <= question.round <= self._plan.rounds:
            raise PlanRefusedError(
                "keys for a masked round",
                got=f"{masks_of(question.round)}, exchange {question.serial}",
                expected=f"at most round {self._plan.rounds}, and an exchange after {self._state.serial}",
            )
        fresh = self._fresh(question.round, question.serial, patients=patients)
        self._save(self._state.model_copy(update={"serial": question.serial, "coming": fresh}))
        return fresh.keys

    def _fresh(self, number: int, serial: int, *, patients: int) -> KeyExchange:
        made = Secrets.fresh()
        unsigned = SiteKeys(
            site=self._site,
            patients=patients,
            cipher_key=_text(public_of(made.cipher)),
            mask_key=_text(public_of(made.mask)),
            seed_digest=seed_digest(made.seed),
            signature="00",
        )
        exchange = MaskedExchange(self._run_id, self._plan.digest, number, serial)
        signature = sign(self._key(), keys_statement(exchange, unsigned))
        return KeyExchange(
            round=number,
            serial=serial,
            keys=unsigned.model_copy(update={"signature": signature}),
            secrets=(_text(made.cipher), _text(made.mask), _text(made.seed)),
        )

    def _share(self, number: int, serial: int, members: Sequence[SiteKeys]) -> dict[str, str]:
        """Shares of this site's secrets, sealed for the members; the same ones when asked again."""
        coming = self._state.coming
        if coming is None or (coming.round, coming.serial) != (number, serial):
            raise PlanRefusedError("shares for a masked round that this site made no keys for", got=serial)
        if coming.members:
            if coming.members != tuple(members):
                raise PlanRefusedError("shares for a masked round with other keys than before")
            return coming.sealed
        context = self._context(coming)
        self._check_members(coming, members, context)
        cipher, mask_key, seed = map(base64.b64decode, coming.secrets)
        holders = len(self._plan.sites)
        shares = list(
            zip(
                split(seed, holders=holders, threshold=self._threshold),
                split(mask_key, holders=holders, threshold=self._threshold),
                strict=True,
            )
        )
        sealed = {}
        for member in members:
            if member.site != self._site:
                key = self._sealing_key(cipher, member, context)
                statement = context.statement("sealed-share", self._site, member.site)
                content = b"".join(shares[self._number[member.site]])
                sealed[member.site] = _text(seal(content, key=key, statement=statement))
        kept = _text(b"".join(shares[self._number[self._site]]))
        update = {"members": tuple(members), "kept": kept, "sealed": sealed}
        self._save(self._state.model_copy(update={"coming": coming.model_copy(update=update)}))
        return sealed

    def _check_members(self, own: KeyExchange, members: Sequence[SiteKeys], context: MaskedExchange) -> None:
        names = [member.site for member in members]
        keys = [key for member in members for key in (member.cipher_key, member.mask_key)]
        if names != sorted(set(names)) or len(set(keys)) < len(keys):
            raise PlanRefusedError(
                "keys for a masked round", got="a hospital or a key twice, or out of order"
            )
        for member in members:
            public = self._plan.sites.get(member.site)
            if public is None:
                raise PlanRefusedError(
                    "keys for a masked round", got=member.site, expected="hospitals of the approved plan"
                )
            if not signed_by(public, keys_statement(context, member), signature=member.signature):
                raise PlanRefusedError(
                    f"keys of {member.site} for a masked round",
                    expected="keys that it signed for this round with the key in the approved plan",
                )
        if not all(is_usable(base64.b64decode(key)) for key in keys):
            raise PlanRefusedError(
                "keys for a masked round", expected="public keys from which a secret can be made"
            )
        if own.keys not in members:
            raise PlanRefusedError(
                "keys for a masked round", expected="this site's own among them, unchanged"
            )
        self._check_enough(names, number=own.round)

    def _check_enough(self, sites: Sequence[str] | set[str], *, number: int) -> None:
        needed = max(self._threshold, POOLED_SITES if number == HELD_OUT_ROUND else 0)
        if len(sites) < needed:
            raise PlanRefusedError(
                f"hospitals in {masks_of(number, sum_of=True)}",
                got=len(sites),
                expected=f"at least {needed} of the plan's {len(self._plan.sites)}",
            )

    def _check_hides(self, exchange: KeyExchange, sites: set[str]) -> None:
        """A sum to which nobody else adds a patient is this site's own update.

        Of counts, two others must add some: one of them would know the rest.
        """
        others = [one for one in exchange.members if one.site in sites and one.site != self._site]
        adding = sum(one.patients > 0 for one in others)
        if exchange.round == HELD_OUT_ROUND and exchange.keys.patients and adding < POOLED_SITES - 1:
            raise PlanRefusedError(
                "a pooled evaluation",
                got=f"held-out patients of this site and {adding} others",
                expected=f"those of {POOLED_SITES} hospitals, so that none knows another's",
            )
        if exchange.keys.patients and not adding:
            raise PlanRefusedError(
                "a masked round",
                got="no training patients but this site's",
                expected="those of another hospital, so that the sum hides them",
            )

    # ---- masking -------------------------------------------------------------------------

    def _ready(self, question: TrainRound | EvaluateHeldOut) -> tuple[KeyExchange, dict[str, str]]:
        """The exchange that a round is masked with, and the sealed shares that came for it."""
        coming, masking = self._state.coming, question.masking
        number = question.round if isinstance(question, TrainRound) else HELD_OUT_ROUND
        if masking is None:
            raise PlanRefusedError(
                f"{masks_of(number)} without masks", expected="secure aggregation, as the approved plan says"
            )
        if coming is None or not coming.members or (coming.round, coming.serial) != (number, masking.serial):
            raise PlanRefusedError(
                f"{masks_of(number)} with the keys of exchange {masking.serial}",
                expected="keys that were exchanged for it and not used yet",
            )
        together = {*masking.shares, self._site}
        if self._site in masking.shares or not together <= {one.site for one in coming.members}:
            raise PlanRefusedError("shares for a masked round", expected="those of its other members")
        self._check_enough(together, number=number)
        self._check_hides(coming, together)
        return coming, dict(masking.shares)

    def _encoded(self, exchange: KeyExchange, *, base: FlatArray, trained: FlatArray) -> np.ndarray:
        """Ring elements: the update's, then how many of them were clipped, and whether its norm was."""
        change = np.subtract(trained, base, dtype=np.float64)
        norm, bound = (
            float(np.linalg.norm(change)),
            self._max_norm * float(np.linalg.norm(base.astype(np.float64))),
        )
        if shortened := norm > bound:
            change *= bound / norm
        total = sum(member.patients for member in exchange.members)
        share = exchange.keys.patients / total if total else 0.0
        encoded = fixed_point.encode(change, share=share, bound=self._config.clip)
        counts = fixed_point.encode_counts((encoded.clipped, int(shortened)), sites=len(self._plan.sites))
        return np.concatenate([encoded.values, counts])

    # ---- taking masks off ----------------------------------------------------------------

    def _agree(self, question: Survivors) -> SurvivorsReport:
        sent, survivors = self._sent(question), question.survivors
        if list(survivors) != sorted(set(survivors)) or not {self._site} <= set(survivors) <= sent.together:
            raise PlanRefusedError(
                f"who is left of {masks_of(question.round)}",
                got=", ".join(survivors),
                expected=f"{self._site} and others of {', '.join(sorted(sent.together))}",
            )
        self._check_enough(survivors, number=question.round)
        self._check_hides(sent.exchange, set(survivors))
        self._opened.check(question.round, survivors)
        if sent.only_with not in (None, survivors):
            raise PlanRefusedError(
                "the sum of the held-out evaluation over other hospitals",
                got=", ".join(survivors),
                expected=f"{', '.join(sent.only_with or ())}, whose sum of nearly the same answers was opened before",
                advice="The difference of the two sums could be one hospital's counts. Wait for the sites that are "
                "missing, or evaluate another model.",
            )
        if sent.survivors not in (None, survivors):
            raise PlanRefusedError(
                f"who is left of {masks_of(question.round)}",
                got=", ".join(survivors),
                expected=f"{', '.join(sent.survivors or ())}, as this site signed before",
            )
        shares = (
            self._share(question.round + 1, question.serial + 1, question.following)
            if question.following
            else {}
        )
        if sent.survivors is None:
            self._save(
                self._state.model_copy(update={"sent": sent.model_copy(update={"survivors": survivors})})
            )
        return SurvivorsReport(signature=sign(self._key(), self._agreed(sent, survivors)), shares=shares)

    def _reveal(self, question: Unmask) -> UnmaskReport:
        sent = self._sent(question)
        if sent.survivors is None:
            raise PlanRefusedError("shares before this site signed who is left")
        statement = self._agreed(sent, sent.survivors)
        valid = [
            site
            for site, signature in question.signatures.items()
            if site in sent.survivors and signed_by(self._plan.sites[site], statement, signature=signature)
        ]
        if len(valid) < self._threshold:
            raise PlanRefusedError(
                "signatures of who is left",
                got=f"{len(valid)} that are valid",
                expected=f"at least {self._threshold} of the same list",
            )
        self._opened.keep(question.round, sent.survivors)
        shares = {site: self._unsealed(sent, site) for site in sorted(sent.together)}
        return UnmaskReport(
            seeds={s: _text(both[:KEY_BYTES]) for s, both in shares.items() if both and s in sent.survivors},
            mask_keys={
                s: _text(both[KEY_BYTES:]) for s, both in shares.items() if both and s not in sent.survivors
            },
        )

    def _sent(self, question: Survivors | Unmask) -> MaskedUpdate:
        sent = self._state.sent
        if sent is None or (sent.exchange.round, sent.exchange.serial) != (question.round, question.serial):
            raise PlanRefusedError(
                f"the masks of {masks_of(question.round)}, exchange {question.serial}",
                expected="those of what this site masked last",
            )
        return sent

    def _agreed(self, sent: MaskedUpdate, survivors: Sequence[str]) -> bytes:
        return survivors_statement(self._context(sent.exchange), question=sent.question, survivors=survivors)

    def _unsealed(self, sent: MaskedUpdate, site: str) -> bytes | None:
        """The two shares of a site's secrets that this site holds; None where what came cannot be read."""
        exchange = sent.exchange
        if site == self._site:
            return base64.b64decode(exchange.kept)
        context = self._context(exchange)
        member = next(one for one in exchange.members if one.site == site)
        key = self._sealing_key(base64.b64decode(exchange.secrets[0]), member, context)
        content = unseal(
            _decoded(sent.received[site]),
            key=key,
            statement=context.statement("sealed-share", site, self._site),
        )
        return content if content is not None and len(content) == 2 * KEY_BYTES else None

    def _sealing_key(self, cipher: bytes, member: SiteKeys, context: MaskedExchange) -> bytes:
        pair = sorted((self._site, member.site))
        return agreed_key(
            cipher, base64.b64decode(member.cipher_key), statement=context.statement("sealed-share", *pair)
        )

    # ---- state ---------------------------------------------------------------------------

    def _context(self, exchange: KeyExchange) -> MaskedExchange:
        return MaskedExchange(self._run_id, self._plan.digest, exchange.round, exchange.serial)

    def _save(self, state: MaskState) -> None:
        write_state(state, self._path)
        self._state = state


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:  # the wrong number of characters: not what a site made
        return b""
