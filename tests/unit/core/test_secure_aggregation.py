"""The arithmetic of secure aggregation: exact sums, masks that cancel, shares, and what a mask looks like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from stic_core.errors import DataError, ProtocolError
from stic_core.privacy.secure_aggregation import fixed_point
from stic_core.privacy.secure_aggregation.exchange import MaskedExchange, colluders_withstood, threshold_of
from stic_core.privacy.secure_aggregation.keys import (
    Secrets,
    agreed_key,
    derived_key,
    public_of,
    seal,
    unseal,
)
from stic_core.privacy.secure_aggregation.masks import (
    from_bytes,
    keystream,
    masked,
    ring_sum,
    to_bytes,
    without_own,
    without_pairs,
)
from stic_core.privacy.secure_aggregation.shares import combine, reconstruct, split

EXCHANGE = MaskedExchange("run", "0" * 64, 1, 1)


def _pair_keys(secrets: dict[str, Secrets], site: str) -> dict[str, bytes]:
    return {
        other: agreed_key(
            secrets[site].mask,
            public_of(secrets[other].mask),
            statement=EXCHANGE.statement("pair-mask", *sorted((site, other))),
        )
        for other in secrets
        if other != site
    }


@settings(max_examples=40, deadline=None)
@given(data=st.data(), sites=st.integers(2, 10), size=st.integers(1, 300))
def test_masked_sum_is_the_plain_sum(data, sites, size):
    """Whoever is left, the masked values add up to the plain ones, exactly and in any order."""
    names = [f"s{number}" for number in range(sites)]
    left = sorted(data.draw(st.sets(st.sampled_from(names), min_size=1)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    values = {name: rng.integers(0, 2**32, size, dtype=np.uint32) for name in names}
    secrets = {name: Secrets.fresh() for name in names}
    sent = {
        name: masked(values[name], site=name, own=secrets[name].seed, pairs=_pair_keys(secrets, name))
        for name in names
    }
    total = ring_sum(sent[name] for name in data.draw(st.permutations(left)))
    total = without_own(total, [secrets[name].seed for name in left])
    for absent in set(names) - set(left):
        pairs = {name: key for name, key in _pair_keys(secrets, absent).items() if name in left}
        total = without_pairs(total, absent=absent, pairs=pairs)
    assert np.array_equal(total, ring_sum(values[name] for name in left))


@settings(max_examples=60, deadline=None)
@given(
    patients=st.lists(st.integers(0, 5000), min_size=1, max_size=20).filter(any),
    bound=st.floats(1e-3, 1000),
    spread=st.floats(1e-6, 1.5),
    seed=st.integers(0, 2**32),
)
def test_fixed_point_mean_is_within_its_rounding(patients, bound, spread, seed):
    """The mean of clipped values is off by half a step per site at most, up to values at the bound."""
    rng = np.random.default_rng(seed)
    updates = [(rng.normal(0, spread * bound, 50)).astype(np.float32) for _ in patients]
    shares = [n / sum(patients) for n in patients]
    encoded = [fixed_point.encode(u, share=s, bound=bound) for u, s in zip(updates, shares, strict=True)]
    mean = fixed_point.decode(ring_sum(one.values for one in encoded), share=sum(shares), bound=bound)
    clipped = [np.clip(u.astype(np.float64), -bound, bound) for u in updates]
    expected = np.sum([s * u for s, u in zip(shares, clipped, strict=True)], axis=0)
    assert np.abs(mean - expected).max() <= (0.5 * len(patients) + 0.01) * bound / (2**31 - 2**16)
    assert [one.clipped for one in encoded] == [
        int((np.abs(u.astype(np.float64)) > bound).sum()) for u in updates
    ]


def test_values_at_the_bound_do_not_wrap():
    """A thousand sites that all send the bound give the bound, with its sign."""
    for sign in (-1, 1):
        encoded = [fixed_point.encode(np.full(3, sign * 9.0), share=1 / 1000, bound=8.0) for _ in range(1000)]
        mean = fixed_point.decode(ring_sum(one.values for one in encoded), share=1.0, bound=8.0)
        assert np.allclose(mean, sign * 8.0, atol=1e-5)


def test_an_update_that_is_not_finite_is_not_encoded():
    """Training that diverged is said at the site; masked, nobody could see it."""
    with pytest.raises(DataError):
        fixed_point.encode(np.array([1.0, np.nan]), share=1.0, bound=1.0)


def test_counts_that_could_wrap_are_refused():
    """Whole numbers are summed as they are, so none may be above its part of 2^32."""
    assert fixed_point.encode_counts((3, 2**32 // 4 - 1), sites=4).tolist() == [3, 2**30 - 1]
    for wrong in (-1, 2**30):
        with pytest.raises(ProtocolError):
            fixed_point.encode_counts((wrong,), sites=4)


def test_a_masked_update_looks_like_noise():
    """Its bytes, and the differences of neighbours, are uniform, although the update is nearly constant."""
    names = ["a", "b", "c"]
    secrets = {name: Secrets.fresh() for name in names}
    update = fixed_point.encode(np.full(400_000, 1e-3), share=0.5, bound=8.0).values
    sent = masked(update, site="b", own=secrets["b"].seed, pairs=_pair_keys(secrets, "b"))
    for values in (sent, np.diff(sent)):
        counts = np.bincount(to_bytes(values), minlength=256)
        assert chisquare(counts).pvalue > 1e-6
    assert chisquare(np.bincount(to_bytes(update), minlength=256)[:2]).pvalue < 1e-6  # the test can fail


def test_bytes_and_back():
    """What travels is little-endian, and read as it was."""
    values = np.array([1, 2**32 - 1, 258], dtype=np.uint32)
    assert to_bytes(values).tolist() == [1, 0, 0, 0, 255, 255, 255, 255, 2, 1, 0, 0]
    assert np.array_equal(from_bytes(to_bytes(values)), values)


def test_keystream_is_chacha20():
    """The first block for the zero key and nonce (RFC 8439, appendix A.1, test vector 1)."""
    assert to_bytes(keystream(bytes(32), size=4)).tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"


@settings(max_examples=30, deadline=None)
@given(data=st.data(), holders=st.integers(2, 12), secret=st.binary(min_size=32, max_size=32))
def test_any_threshold_of_shares_gives_the_secret(data, holders, secret):
    """Any `threshold` shares do, and one fewer give something else."""
    threshold = data.draw(st.integers(2, holders))
    shares = dict(enumerate(split(secret, holders=holders, threshold=threshold), start=1))
    chosen = data.draw(st.permutations(sorted(shares)))[:threshold]
    assert combine({number: shares[number] for number in chosen}) == secret
    assert combine({number: shares[number] for number in chosen[:-1]}) != secret


def test_a_wrong_share_is_worked_around():
    """With one share more than needed, a lying holder cannot prevent the reconstruction; with no more, it can."""
    secret = bytes(range(32))
    shares = dict(enumerate(split(secret, holders=4, threshold=3), start=1))
    shares[1] = bytes(32)
    assert reconstruct(shares, threshold=3, is_right=secret.__eq__) == secret
    del shares[4]
    assert reconstruct(shares, threshold=3, is_right=secret.__eq__) is None


def test_sealed_shares_are_for_one_reader_and_one_purpose():
    """Another key, another purpose or a changed byte, and nothing is read."""
    key, statement = derived_key(b"x" * 32, statement=b"s"), EXCHANGE.statement("sealed-share", "a", "b")
    sealed = seal(b"two shares", key=key, statement=statement)
    assert unseal(sealed, key=key, statement=statement) == b"two shares"
    assert unseal(sealed, key=key, statement=EXCHANGE.statement("sealed-share", "b", "a")) is None
    assert unseal(sealed, key=bytes(32), statement=statement) is None
    assert unseal(sealed[:-1] + bytes([sealed[-1] ^ 1]), key=key, statement=statement) is None
    assert unseal(b"", key=key, statement=statement) is None


def test_a_public_key_without_entropy_is_refused():
    """The point of order 1 would make a key that everybody knows."""
    with pytest.raises(ProtocolError):
        agreed_key(Secrets.fresh().mask, bytes(32), statement=b"s")


def test_statements_are_never_the_same_for_two_purposes():
    """Names cannot be moved across a border, nor a signature to another round, attempt, run or plan."""
    others = [
        EXCHANGE.statement("keys", "a,b"),
        EXCHANGE.statement("keys", "a", "b"),
        EXCHANGE.statement("survivors", "a", "b"),
        *(
            MaskedExchange(*facts).statement("keys", "a", "b")
            for facts in (
                ("run2", "0" * 64, 1, 1),
                ("run", "1" * 64, 1, 1),
                ("run", "0" * 64, 2, 1),
                ("run", "0" * 64, 1, 2),
            )
        ),
    ]
    assert len(set(others)) == len(others)


@given(sites=st.integers(2, 1000), share=st.floats(0.501, 1))
def test_two_groups_cannot_both_reach_the_threshold(sites, share):
    """The threshold is above a half of all hospitals and at most all of them."""
    threshold = threshold_of(sites, share=share)
    assert sites < 2 * threshold <= 2 * sites


@pytest.mark.parametrize("sites", range(2, 9))
def test_colluders_withstood_is_right(sites):
    """Counted out: c colluders sign both lists and hold a share of everything; honest sites sign one list."""
    for threshold in range(sites // 2 + 1, sites + 1):
        opened = [
            c
            for c in range(sites - 1)
            if any(
                min(a, threshold) + c >= threshold and (sites - c - a) + c >= threshold
                for a in range(sites - c + 1)
            )
        ]
        most = min(opened) - 1 if opened else sites - 2
        assert colluders_withstood(sites, threshold=threshold) == max(0, most), (sites, threshold)
