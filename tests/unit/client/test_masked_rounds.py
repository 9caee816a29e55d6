"""What a hostile server gets out of a site in a masked round: one test for each way it might try."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stic_client.participation.opened_rounds import OpenedRounds
from stic_client.participation.policy import check_plan
from stic_core.config import FederationConfig, PolicyConfig
from stic_core.errors import ConfigError, DataError, PlanRefusedError
from stic_core.privacy.secure_aggregation.exchange import MaskedExchange
from stic_core.privacy.secure_aggregation.keys import Secrets, public_of, seed_digest
from stic_core.privacy.secure_aggregation.masks import from_bytes
from stic_core.protocol.mask_messages import (
    Masking,
    MaskKeys,
    MaskShares,
    SiteKeys,
    Survivors,
    Unmask,
    keys_statement,
)
from stic_core.protocol.messages import TrainRound
from stic_core.protocol.plan_summary import described
from stic_core.system.keys import load_private, make_key_pair, sign
from stic_core.tensors.flat import digest
from support.masked_sites import INITIAL, RUN_ID, TENSORS, MaskedSites, masked_plan, masked_sites, update_of

FIVE = ("a", "b", "c", "d", "e")


@dataclass
class Coordinator:
    """A server that may do as it likes: single questions to the sites, in any order."""

    sites: MaskedSites
    folder: Path
    serial: int = 0

    def __post_init__(self) -> None:
        self.plan = masked_plan(self.sites)
        self.masks = {name: site.begin(self.plan) for name, site in self.sites.sites.items()}

    def names(self, number: int, serial: int | None = None) -> dict:
        """What all questions have."""
        return {
            "run_id": RUN_ID,
            "plan_digest": self.plan.digest,
            "round": number,
            "serial": self.serial if serial is None else serial,
        }

    def ask(self, site: str, question: object) -> object:
        """A site's answer."""
        return self.masks[site].answer(question, patients=self.sites.sites[site].patients)

    def keys(self, number: int = 1, *, among: str = "abcde") -> tuple[SiteKeys, ...]:
        """New keys of some sites."""
        self.serial += 2  # the one between is of the keys that come with a masked update
        return tuple(self.ask(site, MaskKeys(**self.names(number))).keys for site in among)

    def share(self, members: tuple[SiteKeys, ...], number: int = 1) -> dict[str, dict[str, str]]:
        """What the members sealed for each other, by sender and reader."""
        question = MaskShares(**self.names(number), members=members)
        return {member.site: self.ask(member.site, question).shares for member in members}

    def question(
        self, site: str, sealed: dict[str, dict[str, str]], number: int = 1, **changes: object
    ) -> TrainRound:
        """A round's question."""
        shares = {sender: shares[site] for sender, shares in sealed.items() if sender != site}
        facts = {
            "run_id": RUN_ID,
            "plan_digest": self.plan.digest,
            "round": number,
            "weights_digest": digest(INITIAL, TENSORS),
            "masking": Masking(serial=self.serial, shares=shares),
        }
        return TrainRound(**facts | changes)

    def train(self, site: str, sealed: dict, number: int = 1, **changes: object) -> np.ndarray:
        """A site's masked update."""
        question = self.question(site, sealed, number, **changes)
        self.masks[site].check(question)
        wire, _ = self.masks[site].mask(question, base=INITIAL, trained=INITIAL + update_of(site, INITIAL))
        return from_bytes(wire)

    def masked(self, number: int = 1, *, among: str = "abcde") -> dict[str, np.ndarray]:
        """An honest round up to the masked updates."""
        sealed = self.share(self.keys(number, among=among), number)
        return {site: self.train(site, sealed, number) for site in among}

    def sign(self, site: str, survivors: str, number: int = 1) -> str:
        """A site's signature of who is left."""
        return self.ask(site, Survivors(**self.names(number), survivors=tuple(survivors))).signature

    def reveal(self, site: str, signatures: dict[str, str], number: int = 1) -> object:
        """A site's shares."""
        return self.ask(site, Unmask(**self.names(number), signatures=signatures))

    def restart(self, site: str) -> None:
        """The site was killed, and is started again."""
        self.masks[site] = self.sites.sites[site].begin(self.plan)


@pytest.fixture
def server(tmp_path: Path) -> Coordinator:
    """Five sites; four have to agree."""
    server = Coordinator(masked_sites(tmp_path, FIVE), tmp_path)
    assert server.plan.threshold == 4
    return server


def test_different_lists_of_survivors_open_nothing(server):
    """Some are told that a site is gone and others that it is there: no list has enough signatures."""
    server.masked()
    lists = {site: "abcde" if site in "abc" else "bcde" for site in FIVE}
    signatures = {site: server.sign(site, lists[site]) for site in FIVE}
    for site in FIVE:
        with pytest.raises(PlanRefusedError, match="signatures"):
            server.reveal(site, signatures)


def test_a_site_signs_one_list(server):
    """Asked again with another list, it refuses, also after a restart; with the same one it answers again."""
    server.masked()
    server.sign("a", "abcde")
    server.restart("a")
    server.sign("a", "abcde")
    with pytest.raises(PlanRefusedError, match="who is left"):
        server.sign("a", "abcd")


def test_never_both_kinds_of_shares(server):
    """Whatever is asked after the unmasking, of each site one kind of share leaves."""
    server.masked()
    signatures = {site: server.sign(site, "abcd") for site in "abcd"}
    answer = server.reveal("a", signatures)
    assert (sorted(answer.seeds), sorted(answer.mask_keys)) == (list("abcd"), ["e"])
    server.restart("a")
    assert server.reveal("a", signatures) == answer
    with pytest.raises(PlanRefusedError):
        server.sign("a", "abcde")
    forged = {site: signature for site, signature in signatures.items() if site in "ab"}
    with pytest.raises(PlanRefusedError, match="signatures"):
        server.reveal("b", forged | dict.fromkeys("cd", signatures["a"]))


def test_below_the_threshold_nothing_is_signed(server):
    """A list of three of five is not signed, nor one that lacks this site, or has a stranger to the round."""
    server.masked(among="abcd")
    for survivors in ("abc", "bcd", "abcde", "abcdd", "bacd"):
        with pytest.raises(PlanRefusedError):
            server.sign("a", survivors)


def test_without_a_signed_list_no_share_leaves(server):
    """Shares are not revealed before the site itself has signed."""
    server.masked()
    signatures = {site: server.sign(site, "abcde") for site in "bcde"}
    with pytest.raises(PlanRefusedError, match="before this site signed"):
        server.reveal("a", signatures)


def test_a_second_sum_of_a_round_is_not_opened(server):
    """New keys for the same round give a new masked update, and no second sum: not even in another run."""
    server.masked()
    signatures = {site: server.sign(site, "abcde") for site in FIVE}
    for site in FIVE:
        server.reveal(site, signatures)
    server.masked()
    with pytest.raises(PlanRefusedError, match="over other hospitals"):
        server.sign("a", "abcd")
    assert server.sign("a", "abcde")  # the same sum tells nothing new
    for name, site in server.sites.sites.items():
        server.masks[name] = site.begin(server.plan, "another-run")
    server.names = lambda number, serial=None: {
        "run_id": "another-run",
        "plan_digest": server.plan.digest,
        "round": number,
        "serial": server.serial,
    }
    server.masked()
    with pytest.raises(PlanRefusedError, match="over other hospitals"):
        server.sign("a", "abcd")


def test_an_abandoned_attempt_can_be_repeated_with_others(server):
    """Nothing was revealed of the first attempt: a second one with one site fewer is no difference of two sums."""
    server.masked()
    server.sign("a", "abcde")
    server.masked(among="abcd")
    signatures = {site: server.sign(site, "abcd") for site in "abcd"}
    assert server.reveal("a", signatures).seeds
    server.serial -= 2
    with pytest.raises(PlanRefusedError, match="masked last"):  # and the first one can be opened no more
        server.reveal("a", signatures)


def test_the_same_masks_never_hide_two_updates(server):
    """Asked for the same exchange again, a site refuses: two updates under one mask would bare their difference."""
    sealed = server.share(server.keys())
    server.train("a", sealed)
    for changes in ({}, {"weights_digest": "1" * 64}, {"learning_rate": 0.01}):
        server.restart("a")
        with pytest.raises(PlanRefusedError, match="not used yet"):
            server.train("a", sealed, **changes)


def test_replayed_keys_are_refused(server):
    """Keys of an earlier exchange are not signed for this one; an earlier exchange is not begun again."""
    old = server.keys()
    new = server.keys()
    with pytest.raises(PlanRefusedError, match="keys of b"):
        server.share((new[0], old[1], *new[2:]))
    server.serial -= 2
    with pytest.raises(PlanRefusedError):
        server.share(old)
    with pytest.raises(PlanRefusedError):
        server.ask("a", MaskKeys(**server.names(1)))


def test_swapped_keys_are_refused(server):
    """The server's own key in a site's place, another site's, or one site twice: no share is made."""
    members = server.keys()
    own = base64.b64encode(public_of(Secrets.fresh().mask)).decode()
    changed = [
        (members[0], members[1].model_copy(update={"mask_key": own}), *members[2:]),
        (members[0], members[1].model_copy(update={"cipher_key": own}), *members[2:]),
        (members[0], members[1].model_copy(update={"patients": 10_000}), *members[2:]),
        (members[0], members[2].model_copy(update={"site": "b"}), *members[2:]),
        (members[0], members[1], members[1], *members[2:]),
        (members[0].model_copy(update={"mask_key": own}), *members[1:]),
        members[1:],
        members[::-1],
    ]
    for wrong in changed:
        with pytest.raises(PlanRefusedError):
            server.ask("a", MaskShares(**server.names(1), members=wrong))
    server.ask("a", MaskShares(**server.names(1), members=members))
    with pytest.raises(PlanRefusedError, match="other keys than before"):
        server.ask("a", MaskShares(**server.names(1), members=members[:4]))


@pytest.mark.parametrize("name", ["rogue", "e"])
def test_a_hospital_that_nobody_approved_is_refused(server, name, tmp_path):
    """One of the coordinator's making, under a new name or an approved one, with a key of its own."""
    make_key_pair(tmp_path / "rogue.key")
    members = server.keys(among="abcd")
    made = Secrets.fresh()
    keys = SiteKeys(
        site=name,
        patients=5,
        cipher_key=base64.b64encode(public_of(made.cipher)).decode(),
        mask_key=base64.b64encode(public_of(made.mask)).decode(),
        seed_digest=seed_digest(made.seed),
        signature="00",
    )
    statement = keys_statement(MaskedExchange(RUN_ID, server.plan.digest, 1, server.serial), keys)
    keys = keys.model_copy(update={"signature": sign(load_private(tmp_path / "rogue.key"), statement)})
    with pytest.raises(PlanRefusedError):
        server.ask("a", MaskShares(**server.names(1), members=(*members, keys)))


def test_too_few_members_get_no_shares(server):
    """Two groups that know nothing of each other cannot both be large enough."""
    members = server.keys(among="abc")
    with pytest.raises(PlanRefusedError, match="at least 4"):
        server.ask("a", MaskShares(**server.names(1), members=members))


def test_another_model_for_one_site_gives_noise(server):
    """Others that were sent a model with which they change nothing do not lay one site's update bare."""
    sealed = server.share(server.keys())
    sent = {
        site: server.train(site, sealed, weights_digest=("0" if site == "a" else "1") * 64) for site in FIVE
    }
    signatures = {site: server.sign(site, "abcde") for site in FIVE}
    with pytest.raises(PlanRefusedError, match="1 that are valid"):
        server.reveal("a", signatures)
    assert (
        len(server.reveal("b", signatures).seeds) == 5
    )  # the four others agree, and their shares open the sum
    total = sum(sent.values())
    assert np.unique(total).size > 35


def test_another_rate_for_one_site_is_another_question(server):
    """A rate so small that the others change nothing is noticed in the same way."""
    sealed = server.share(server.keys())
    for site in FIVE:
        server.train(site, sealed, learning_rate=None if site == "a" else 1e-30)
    signatures = {site: server.sign(site, "abcde") for site in FIVE}
    with pytest.raises(PlanRefusedError, match="1 that are valid"):
        server.reveal("a", signatures)


def test_a_sum_with_nobody_elses_patients_is_not_masked(tmp_path):
    """Where no other site has training patients, the sum would be this site's update."""
    server = Coordinator(masked_sites(tmp_path, FIVE, patients=(20, 0, 0, 0, 9)), tmp_path)
    sealed = server.share(server.keys())
    for site in FIVE:
        server.train(site, sealed)
    with pytest.raises(PlanRefusedError, match="training patients"):
        server.sign("a", "abcd")
    assert server.sign("b", "abcd")  # it has nothing to hide
    sealed = server.share(server.keys(among="abcd"))
    with pytest.raises(PlanRefusedError, match="training patients"):
        server.train("a", sealed)


def test_a_round_without_masks_is_refused(server):
    """The plan says that the site masks."""
    sealed = server.share(server.keys())
    with pytest.raises(PlanRefusedError, match="without masks"):
        server.train("a", sealed, masking=None)


def test_shares_of_strangers_are_refused(server):
    """Who masks the round together are members, and enough of them."""
    sealed = server.share(server.keys(among="abcd"))
    one = sealed["b"]["a"]
    for senders in ("bcde", "bc", "abcd"):
        masking = Masking(serial=server.serial, shares=dict.fromkeys(senders, one))
        with pytest.raises(PlanRefusedError):
            server.train("a", sealed, masking=masking)


def test_unreadable_shares_are_not_revealed(server):
    """What another site sealed wrongly, or the server changed, is missing from the answer; the rest is there."""
    sealed = server.share(server.keys())
    sealed["b"] = dict.fromkeys(sealed["b"], sealed["b"]["c"])
    for site in FIVE:
        server.train(site, sealed)
    signatures = {site: server.sign(site, "abcde") for site in FIVE}
    assert sorted(server.reveal("a", signatures).seeds) == list("acde")
    assert sorted(server.reveal("c", signatures).seeds) == list("abcde")


def test_damaged_state_is_said(server, tmp_path):
    """Nothing is guessed from a file that is damaged."""
    server.masked()
    (server.sites.sites["a"].folder / "between-rounds" / RUN_ID / "masks.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        server.restart("a")
    opened = OpenedRounds(tmp_path / "opened", plan="x")
    opened.keep(1, ["a", "b"])
    (tmp_path / "opened" / "x.json").write_text("[]")
    with pytest.raises(DataError, match="damaged"):
        opened.check(1, ["a", "b"])


def test_secrets_are_readable_by_their_owner_alone(server):
    """What would open a site's update lies in a file of mode 0600."""
    server.masked()
    path = server.sites.sites["a"].folder / "between-rounds" / RUN_ID / "masks.json"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({"local_only": True}, {}),
        ({"transport": "int8"}, {}),
        ({"secure_aggregation": None}, {"secure_aggregation": "required"}),
        ({"sites": {}}, {}),
    ],
)
def test_plans_that_undo_the_masks_are_refused(server, changes, policy):
    """Own models, a transport that has no ring, no masks where the site asks for them, nobody to hide among."""
    check_plan(server.plan, PolicyConfig(secure_aggregation="required"))
    with pytest.raises(PlanRefusedError):
        check_plan(server.plan.model_copy(update=changes), PolicyConfig(**policy))


@pytest.mark.parametrize(
    "wrong", [{"local_only": True}, {"transport": "float16"}, {"secure_aggregation": {"threshold": 0.5}}]
)
def test_configurations_that_undo_the_masks_are_refused(wrong):
    """The same in federation.yaml, with the key to change."""
    good = {"local_only": False, "secure_aggregation": True}
    assert FederationConfig.model_validate(good).secure_aggregation is not None
    assert FederationConfig.model_validate({"secure_aggregation": False}).secure_aggregation is None
    with pytest.raises((ConfigError, ValueError), match=next(iter(wrong))):
        FederationConfig.model_validate(good | wrong)


@pytest.mark.parametrize(
    ("sites", "masking", "told"),
    [
        (2, {}, "at least 2 of 2 hospitals, and none of them; two hospitals can compute each other's"),
        (3, {}, "at least 2 of 3 hospitals, and none of them; this holds against the server alone"),
        (
            3,
            {"threshold": 1.0},
            "at least 3 of 3 hospitals, and none of them; this holds against the server with up to 1 of",
        ),
        (
            10,
            {},
            "at least 7 of 10 hospitals, and none of them; this holds against the server with up to 3 of",
        ),
    ],
)
def test_the_approval_text_says_against_whom_it_holds(tmp_path, sites, masking, told):
    """How many hospitals are in a sum, how many may be in league with the server, and what is not covered."""
    plan = masked_plan(masked_sites(tmp_path, "abcdefghij"[:sites]), **masking)
    text = dict(described(plan, PolicyConfig(max_update_norm=0.25)))
    assert told in text["secure aggregation"]
    assert "the figures sent" in text["not covered by it"]
    assert text["update bounded"] == "values at 8, the norm at 0.25 times the model's"
    assert text["weights sent"].startswith("per round, under masks: 1 tensors, 40 values")
    assert all(site in text["hospitals"] for site in plan.sites)
