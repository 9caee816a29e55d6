"""Keys and certificates over the years: revoked, replaced, renewed, and nothing lost in between."""

from __future__ import annotations

import datetime as dt
import os
import re
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from stic_client.connection.enroll import enroll
from stic_client.connection.keys import SiteKeys
from stic_client.connection.tls import pinned
from stic_core.errors import RefusedError, UsageError
from stic_core.system.keys import (
    certificate_fingerprint,
    fingerprint_of,
    key_fingerprint,
    load_certificates,
    load_private,
    load_public,
    make_key_pair,
    write_private,
)
from stic_server.admission.certificates import load_key, make_certificates
from stic_server.admission.expiry import expiries
from stic_server.admission.registry import admit, admitted, revoke, revoked, scan
from stic_server.admission.renewal import check_keys, make_next_ca, renew, switch_ca
from stic_server.flower_link import FleetServer, Listen

NAMES = ("localhost", "127.0.0.1")


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A server's folder with a CA and a certificate."""
    folder = tmp_path / "server"
    make_certificates(folder, names=NAMES)
    return folder


class Interrupted(BaseException):
    """Stands for kill -9: nothing that catches errors catches it."""


def interrupt(monkeypatch: pytest.MonkeyPatch, *, before: int) -> None:
    """Let a command die before its n-th change of a name on the disk."""
    calls = 0
    replace, unlink = Path.replace, Path.unlink

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == before:
            raise Interrupted

    def counted_replace(path: Path, target: Path) -> Path:
        count()
        return replace(path, target)

    def counted_unlink(path: Path, missing_ok: bool = False) -> None:
        count()
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "replace", counted_replace)
    monkeypatch.setattr(Path, "unlink", counted_unlink)


def interrupted_everywhere(
    command: Callable[[], object], *, between: Callable[[], None], restore: Callable[[], None]
) -> int:
    """Interrupt a command at each step, look at what is left, and run it again to its end.

    Returns:
        How many steps it has.
    """
    step = 0
    while True:
        step += 1
        restore()
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, before=step)
            try:
                command()
            except Interrupted:
                pass
            else:
                return step - 1
        between()
        command()


def copy_of(folder: Path) -> Callable[[], None]:
    """What puts a folder back as it is now."""
    before = {path: (path.read_bytes(), path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}

    def restore() -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()
        for path, (content, mode) in before.items():
            path.write_bytes(content)
            path.chmod(mode)

    return restore


# ---- private keys are their owner's alone -----------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o601])
def test_a_looser_mode_is_refused_for_every_private_key(server: Path, tmp_path: Path, mode: int) -> None:
    """The site's key and the one that follows, the server's, its CA's and the next CA's."""
    keys = SiteKeys(tmp_path / "site.key")
    make_key_pair(tmp_path / "site.key")
    keys.make_next()
    make_next_ca(server)
    renews = (lambda: renew(server, names=NAMES), lambda: check_keys(server))
    uses: dict[Path, tuple[Callable[[], object], ...]] = {
        tmp_path / "site.key": (keys.current, keys.make_next),
        tmp_path / "site-next.key": (keys.next_key, keys.make_next),
        server / "server.key": renews,
        server / "ca.key": renews,
        server / "ca-next.key": (
            lambda: check_keys(server),
            lambda: switch_ca(server, names=NAMES),
        ),
    }
    assert {*tmp_path.rglob("*.key")} == {*uses}  # there is no other
    for path, users in uses.items():
        assert path.stat().st_mode & 0o777 == 0o600
        path.chmod(mode)
        for use in users:
            with pytest.raises(UsageError, match=rf"got mode {mode:04o}; expected 0600\. Run chmod 600"):
                use()
        path.chmod(0o600)
        for use in users[:1]:
            use()


def test_a_secret_is_0600_whatever_the_umask(tmp_path: Path) -> None:
    """A shell that lets everybody read does not matter, nor one that lets nobody."""
    for name, umask in (("open", 0), ("closed", 0o177)):
        before = os.umask(umask)
        try:
            write_private(tmp_path / name, b"x")
        finally:
            os.umask(before)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


# ---- the operator revokes and replaces --------------------------------------------------


def test_a_revoked_key_does_not_come_back_by_accident(tmp_path: Path) -> None:
    """Neither under its name nor another, nor by a copy into the folder; --again admits it."""
    sites, key = tmp_path / "sites", make_key_pair(tmp_path / "a.key")
    admit(sites, name="center1", public_key=key)
    gone = revoke(sites, name="center1")
    assert admitted(sites) == []
    assert [(site.name, site.fingerprint) for site in revoked(sites)] == [("center1", gone.fingerprint)]
    for name in ("center1", "center2"):
        with pytest.raises(RefusedError, match=r"center1; got SHA256:.*--again") as error:
            admit(sites, name=name, public_key=key)
        assert error.value.exit_code == 3
    (sites / "center1.pub").write_bytes(key.read_bytes())
    assert admitted(sites) == []
    again = admit(sites, name="center1", public_key=key, again=True)
    assert [site.fingerprint for site in admitted(sites)] == [again.fingerprint] == [gone.fingerprint]
    assert revoked(sites) == []


def test_what_cannot_be_revoked(tmp_path: Path) -> None:
    """A site that nobody admitted, or that is revoked already."""
    sites = tmp_path / "sites"
    admit(sites, name="center1", public_key=make_key_pair(tmp_path / "a.key"))
    with pytest.raises(UsageError, match="center2 is not admitted; expected center1"):
        revoke(sites, name="center2")
    revoke(sites, name="center1")
    with pytest.raises(UsageError, match="center1 is not admitted"):
        revoke(sites, name="center1")


def test_a_key_is_replaced_only_when_asked(tmp_path: Path) -> None:
    """Without --replace nothing changes; with it the new key is admitted and the old one revoked."""
    sites = tmp_path / "sites"
    old, new, other = (make_key_pair(tmp_path / f"{name}.key") for name in ("old", "new", "other"))
    first = admit(sites, name="center1", public_key=old)
    admit(sites, name="center2", public_key=other)
    with pytest.raises(UsageError, match="--replace") as refused:
        admit(sites, name="center1", public_key=new)
    assert refused.value.expected == first.fingerprint
    with pytest.raises(UsageError, match="no key to replace"):
        admit(sites, name="center3", public_key=new, replace=True)
    with pytest.raises(UsageError, match="already admitted as center2"):
        admit(sites, name="center1", public_key=other, replace=True)
    admit(sites, name="center1", public_key=new, replace=True)
    names = {site.name: site.fingerprint for site in admitted(sites)}
    assert names["center1"] == key_fingerprint(load_public(new))
    assert [site.fingerprint for site in revoked(sites)] == [first.fingerprint]
    with pytest.raises(RefusedError, match="was revoked"):
        admit(sites, name="center1", public_key=old, replace=True)


def test_replacing_a_key_may_be_interrupted_anywhere(tmp_path: Path) -> None:
    """The site is admitted at every moment, with the old key or the new one; again, and it is done."""
    sites = tmp_path / "sites"
    old, new = (make_key_pair(tmp_path / f"{name}.key") for name in ("old", "new"))
    before = admit(sites, name="center1", public_key=old)
    after = key_fingerprint(load_public(new))

    def between() -> None:
        (site,) = admitted(sites)
        assert site.fingerprint in {before.fingerprint, after}

    def done() -> None:
        admit(sites, name="center1", public_key=new, replace=True)
        assert [site.fingerprint for site in admitted(sites)] == [after]
        assert [site.fingerprint for site in revoked(sites)] == [before.fingerprint]

    assert interrupted_everywhere(done, between=between, restore=copy_of(sites)) >= 3


def test_a_file_that_is_no_key_does_not_hide_the_others(tmp_path: Path) -> None:
    """What is being copied takes no admission back and gives none; whoever is asked strictly is told."""
    sites = tmp_path / "sites"
    site = admit(sites, name="center1", public_key=make_key_pair(tmp_path / "a.key"))
    (sites / "center2.pub").write_text("ecdsa-sha2-nistp384 AAAA")
    found = scan(sites)
    assert ([one.fingerprint for one in found.sites], found.names) == (
        [site.fingerprint],
        {"center1", "center2"},
    )
    with pytest.raises(UsageError, match=r"center2\.pub is not a site's public key"):
        admitted(sites)


# ---- the running server follows ---------------------------------------------------------


@pytest.fixture
def fleet(server: Path) -> FleetServer:
    """A server that does not listen: who is admitted is all that is asked of it."""
    return FleetServer(
        Listen("127.0.0.1", 1, server / "server.crt", server / "server.key", server / "ca.crt")
    )


def test_the_server_forgets_a_site_and_takes_it_again(fleet: FleetServer, server: Path) -> None:
    """A node that never signed on is expelled, too, and the same key may come back."""
    sites = server / "sites"
    key = make_key_pair(server / "a.key")
    admit(sites, name="center1", public_key=key)
    fleet.admit(admitted(sites))
    assert {name: (one.online, one.last_seen) for name, one in fleet.presence().items()} == {
        "center1": (False, None)
    }
    revoke(sites, name="center1")
    fleet.admit(scan(sites).sites)
    assert fleet.presence() == {}
    admit(sites, name="center1", public_key=key, again=True)
    fleet.admit(admitted(sites))
    assert list(fleet.presence()) == ["center1"]


def test_a_site_keeps_its_place_while_its_file_is_being_copied(fleet: FleetServer, server: Path) -> None:
    """A half-written file of one site does not keep another from being expelled."""
    sites = server / "sites"
    for name in ("center1", "center2"):
        admit(sites, name=name, public_key=make_key_pair(server / f"{name}.key"))
    fleet.admit(admitted(sites))
    (sites / "center1.pub").write_text("ecdsa-")
    revoke_by_hand = sites / "center2.pub"
    revoke_by_hand.unlink()
    found = scan(sites)
    fleet.admit(found.sites, keep=found.unreadable)
    assert list(fleet.presence()) == ["center1"]


# ---- the site changes its key -----------------------------------------------------------


def test_a_new_key_is_made_once_and_the_old_one_stays(tmp_path: Path) -> None:
    """Again shows the same fingerprint; site.key and site.pub are untouched until the server knows the new one."""
    public = make_key_pair(tmp_path / "site.key")
    keys, before = SiteKeys(tmp_path / "site.key"), (tmp_path / "site.key").read_bytes()
    assert keys.next_key() is None
    made = keys.make_next()
    assert made == keys.make_next() == key_fingerprint(load_public(keys.next_public))
    assert (tmp_path / "site.key").read_bytes() == before
    assert key_fingerprint(load_public(public)) == key_fingerprint(keys.current().public_key()) != made
    keys.accepted()
    assert key_fingerprint(keys.current().public_key()) == key_fingerprint(load_public(public)) == made
    assert keys.next_key() is None
    assert {path.name for path in tmp_path.iterdir()} == {"site.key", "site.pub"}


def test_a_key_without_a_suffix_has_its_own_next(tmp_path: Path) -> None:
    """The next key's public half is never written over the current one's."""
    public = make_key_pair(tmp_path / "id")
    before = public.read_bytes()
    SiteKeys(tmp_path / "id").make_next()
    assert public.read_bytes() == before


def test_a_site_without_a_key_cannot_rotate_it(tmp_path: Path) -> None:
    """It is told to enroll."""
    with pytest.raises(UsageError, match="enroll"):
        SiteKeys(tmp_path / "site.key").make_next()


def test_making_and_taking_a_key_may_be_interrupted_anywhere(tmp_path: Path) -> None:
    """A usable key is there at every moment, and no key whose fingerprint was shown is lost."""
    make_key_pair(tmp_path / "site.key")
    keys = SiteKeys(tmp_path / "site.key")
    old = key_fingerprint(keys.current().public_key())

    def usable() -> None:
        keys.current()
        keys.next_key()

    assert interrupted_everywhere(keys.make_next, between=usable, restore=copy_of(tmp_path)) >= 1
    shown = keys.make_next()

    def take() -> None:
        if (following := keys.next_key()) is not None:
            assert key_fingerprint(following.public_key()) == shown
            keys.accepted()
        assert key_fingerprint(keys.current().public_key()) == shown
        assert key_fingerprint(load_public(tmp_path / "site.pub")) == shown

    def between() -> None:
        assert key_fingerprint(keys.current().public_key()) in {old, shown}

    assert interrupted_everywhere(take, between=between, restore=copy_of(tmp_path)) >= 2


def test_a_new_key_that_was_thrown_away_does_not_touch_the_old_one(tmp_path: Path) -> None:
    """Only a public half that belongs to site.key becomes site.pub."""
    public = make_key_pair(tmp_path / "site.key")
    keys = SiteKeys(tmp_path / "site.key")
    keys.make_next()
    (tmp_path / "site-next.key").unlink()
    ours = key_fingerprint(keys.current().public_key())
    assert key_fingerprint(load_public(public)) == ours


# ---- certificates -----------------------------------------------------------------------


def connects(ca: Path, server: Path, *, name: str = "localhost") -> str:
    """TLS between a site's context and the server's files, in memory.

    Returns:
        `yes`, or what the site says of the certificate.
    """
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(server / "server.crt", server / "server.key")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    site = pinned(ca).wrap_bio(down, up, server_hostname=name)
    there = ours.wrap_bio(up, down, server_side=True)
    for _ in range(5):
        for side in (site, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return "yes"


def test_a_renewed_certificate_needs_nothing_at_the_sites(server: Path, tmp_path: Path) -> None:
    """Same CA, same server key, another serial number, the names of federation.yaml as they are now."""
    ca = tmp_path / "ca.crt"
    ca.write_bytes((server / "ca.crt").read_bytes())
    key, before = (server / "server.key").read_bytes(), load_certificates(server / "server.crt")[0]
    assert connects(ca, server, name="stic.example.org") != "yes"
    shown = renew(server, names=[*NAMES, "stic.example.org"])
    after = load_certificates(server / "server.crt")[0]
    assert connects(ca, server) == connects(ca, server, name="stic.example.org") == "yes"
    assert after.serial_number != before.serial_number
    assert (shown.until, shown.fingerprint) == (after.not_valid_after_utc, fingerprint_of(after))
    assert (server / "server.key").read_bytes() == key
    assert not [path for path in server.iterdir() if "partial" in path.name]


def test_a_certificate_does_not_outlive_its_ca(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the CA has less time left than a server's certificate gets, the CA's end is the end."""
    monkeypatch.setattr("stic_server.admission.certificates.SERVER_DAYS", 10_000)
    assert renew(server, names=NAMES).until == load_certificates(server / "ca.crt")[0].not_valid_after_utc


def test_a_server_without_its_key_gets_another(server: Path) -> None:
    """With the CA at hand a new key is as good as the old one."""
    (server / "server.key").unlink()
    with pytest.raises(UsageError, match=r"no private key at .*server\.key.*stic-server renew"):
        check_keys(server)
    renew(server, names=NAMES)
    check_keys(server)
    assert connects(server / "ca.crt", server) == "yes"


def test_renewing_without_the_cas_key_says_what_to_do(server: Path, tmp_path: Path) -> None:
    """The key may be kept elsewhere; another's is not taken."""
    (server / "ca.key").rename(tmp_path / "kept.key")
    check_keys(server)  # the server runs without it
    with pytest.raises(UsageError, match="stic-server renew --ca"):
        renew(server, names=NAMES)
    make_certificates(tmp_path / "other", names=NAMES)
    (tmp_path / "other" / "ca.key").rename(server / "ca.key")
    with pytest.raises(UsageError, match=r"ca\.key is not the key for ca\.crt"):
        renew(server, names=NAMES)


def test_a_certificate_of_another_key_is_found_at_the_start(server: Path, tmp_path: Path) -> None:
    """The server does not listen with a pair that no TLS takes."""
    make_certificates(tmp_path / "other", names=NAMES)
    (server / "server.crt").write_bytes((tmp_path / "other" / "server.crt").read_bytes())
    with pytest.raises(UsageError, match=r"not the certificate for server\.key\..*stic-server renew"):
        check_keys(server)


def test_a_ca_is_exchanged_without_a_gap(server: Path, tmp_path: Path) -> None:
    """A site that trusts both connects before and after; the one that missed it, until the switch."""
    old = (server / "ca.crt").read_bytes()
    late, ready = tmp_path / "late.crt", tmp_path / "ready.crt"
    late.write_bytes(old)
    following = make_next_ca(server)
    assert make_next_ca(server) == following  # again, and it is the same
    ready.write_bytes(old + following.file.read_bytes())
    assert (connects(late, server), connects(ready, server)) == ("yes", "yes")
    assert certificate_fingerprint(ready).split(", ") == [
        certificate_fingerprint(server / "ca.crt"),
        following.fingerprint,
    ]
    key = (server / "server.key").read_bytes()
    switch_ca(server, names=NAMES)
    check_keys(server)
    assert connects(ready, server) == "yes"
    assert connects(late, server) != "yes"
    assert certificate_fingerprint(server / "ca.crt") == following.fingerprint
    assert (server / "server.key").read_bytes() != key
    assert not (server / "ca-next.key").exists()
    renew(server, names=NAMES)
    ready.write_bytes((server / "ca.crt").read_bytes())  # the old one is taken out
    assert connects(ready, server) == "yes"
    with pytest.raises(UsageError, match="there is no next CA"):
        switch_ca(server, names=NAMES)


def test_switching_the_ca_may_be_interrupted_anywhere(server: Path, tmp_path: Path) -> None:
    """The same command goes on; a server that starts in between either fits or says what to run."""
    both = tmp_path / "both.crt"
    following = make_next_ca(server)
    both.write_bytes((server / "ca.crt").read_bytes() + following.file.read_bytes())

    def between() -> None:
        try:
            check_keys(server)
        except UsageError as error:
            assert "stic-server renew" in str(error)  # noqa: PT017
        else:
            assert connects(both, server) == "yes"

    def done() -> None:
        if (server / "ca-next.crt").exists():
            switch_ca(server, names=NAMES)
        assert connects(server / "ca.crt", server) == "yes"
        assert certificate_fingerprint(server / "ca.crt") == following.fingerprint
        assert load_key(server / "ca.key", missing="").public_key() == ca_of(server).public_key()
        assert {path.name for path in server.iterdir()} == {"ca.crt", "ca.key", "server.crt", "server.key"}

    assert interrupted_everywhere(done, between=between, restore=copy_of(server)) >= 4


def ca_of(server: Path) -> x509.Certificate:
    """The CA's certificate."""
    return load_certificates(server / "ca.crt")[0]


def test_enrolment_shows_every_ca_that_will_be_trusted(server: Path, tmp_path: Path) -> None:
    """A second certificate in the file cannot slip in unseen."""
    make_certificates(tmp_path / "other", names=NAMES)
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes((server / "ca.crt").read_bytes() + (tmp_path / "other" / "ca.crt").read_bytes())
    made = enroll(tmp_path / "site", site="a", address="localhost:1", ca=bundle, root=tmp_path, crop_mm=None)
    for folder in (server, tmp_path / "other"):
        assert certificate_fingerprint(folder / "ca.crt") in made.ca_fingerprint


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (31, None),
        (30, "expires on .* in 30 days; run"),
        (1, "in 1 days"),
        (0, "expired on"),
        (-5, "expired on"),
    ],
)
def test_thirty_days_before_its_end_there_is_a_warning(server: Path, days: int, words: str | None) -> None:
    """For the server's certificate and for the CA's, each with its own command."""
    make_next_ca(server)
    server_one, ca, following = expiries(server)
    commands = {server_one: "stic-server renew", ca: "stic-server renew --ca", following: "stic-server renew"}
    for one, command in commands.items():
        text = one.warning(one.until - dt.timedelta(days=days))
        if words is None:
            assert text is None
        else:
            assert text is not None
            assert command in text
            assert re.search(words, text), text


def test_a_private_key_of_a_site_is_read_from_the_file_that_was_judged(tmp_path: Path) -> None:
    """A link to a key that others can read is refused: the file counts, not its name."""
    make_key_pair(tmp_path / "site.key")
    (tmp_path / "site.key").chmod(0o644)
    (tmp_path / "link.key").symlink_to(tmp_path / "site.key")
    with pytest.raises(UsageError, match="mode 0644"):
        load_private(tmp_path / "link.key")
