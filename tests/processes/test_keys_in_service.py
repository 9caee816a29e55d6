"""Keys and certificates while server and clients run: revoked, rotated, renewed; and what `status` shows."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from stic_core.system.keys import key_fingerprint, load_certificates, load_private, load_public
from support.accidents import said
from support.federation_kit import Home, make_home
from support.waiting import PATIENCE_S, await_line, until

pytestmark = pytest.mark.processes


def done(home: Home, *arguments: str) -> str:
    """A command that succeeds.

    Returns:
        What it printed.
    """
    result = home.run(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.long
def test_a_site_is_revoked_while_a_run_goes_on(tmp_path: Path) -> None:
    """Its next request is refused: exit code 3; the run goes on with the others, without waiting for it."""
    home = make_home(tmp_path, sites=("center1", "center2", "center3"), rounds=4)
    home.edit(home.federation, min_sites=2)
    with (
        home.running(
            "stic-client", "--site", "center1", "--once", accident=said("round 2 of 4", signal.SIGSTOP)
        ) as slow,  # so that the run is not over before center3 is revoked
        home.running("stic-client", "--site", "center2", "--once"),
        home.running("stic-client", "--site", "center3", "--once") as revoked,
        home.running("stic-server", "start") as server,
    ):
        await_line(revoked, "round 2 of 4")
        assert "center3 is no longer admitted" in done(home, "stic-server", "revoke", "center3")
        left, _ = revoked.communicate(timeout=PATIENCE_S)
        assert revoked.returncode == 3, left
        assert "the server does not admit this site" in left.strip().splitlines()[-1]
        os.kill(slow.pid, signal.SIGCONT)
        output, _ = server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 0, output
    assert "Traceback" not in output + left
    assert "center3 is no longer admitted" in output
    took_part = [row["sites"] for row in home.rounds()]
    assert took_part[0] == ["center1", "center2", "center3"]
    assert took_part[2:] == [["center1", "center2"]] * 2
    again = home.run("stic-server", "admit", "center4", str(home.site("center3") / "site.pub"))
    assert again.returncode == 3
    assert "this key was revoked; it belonged to center3" in again.stderr


@pytest.mark.long
def test_a_site_changes_its_key_while_a_run_goes_on(tmp_path: Path) -> None:
    """New key, fingerprint, admission: the client goes on with it by itself, and the other site notices nothing."""
    home = make_home(tmp_path, rounds=4)
    folder = home.site("center1")
    old = key_fingerprint(load_public(folder / "site.pub"))
    with (
        home.running("stic-client", "--site", "center1", "--once") as client,
        home.running(
            "stic-client", "--site", "center2", "--once", accident=said("round 2 of 4", signal.SIGSTOP)
        ) as slow,  # so that the run is not over before the key is changed
        home.running("stic-server", "start") as server,
    ):
        await_line(client, "round 2 of 4")
        shown = done(home, "stic-client", "--site", "center1", "rotate-key")
        new = key_fingerprint(load_public(folder / "site-next.pub"))
        assert new in shown
        assert key_fingerprint(load_private(folder / "site.key").public_key()) == old  # still in use
        sent = str(folder / "site-next.pub")
        assert home.run("stic-server", "admit", "center1", sent).returncode == 2
        assert new in done(home, "stic-server", "admit", "center1", sent, "--replace")
        lines = await_line(client, "the server knows the new key")
        assert not any("not admitted" in line for line in lines)
        os.kill(slow.pid, signal.SIGCONT)
        output, _ = server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 0, output
    assert [(row["round"], row["sites"]) for row in home.rounds()] == [
        (number, ["center1", "center2"]) for number in range(1, 5)
    ]
    assert key_fingerprint(load_private(folder / "site.key").public_key()) == new
    assert key_fingerprint(load_public(folder / "site.pub")) == new
    assert not list(folder.glob("site-next.*"))
    found = json.loads(done(home, "stic-server", "status", "--json"))
    assert found["revoked"] == [{"site": "center1", "fingerprint": old}]
    assert {site["site"]: site["fingerprint"] for site in found["sites"]}["center1"] == new


def status(home: Home) -> dict[str, Any]:
    """What `stic-server status --json` says, asked in this process: it only reads files."""
    import datetime as dt

    from stic_core import config_files
    from stic_core.config import FederationConfig
    from stic_server.status.report import status as found

    federation = config_files.load(home.federation, FederationConfig)
    return found(home.federation.parent, federation, now=dt.datetime.now(dt.UTC))


def online(home: Home) -> dict[str, bool | None]:
    """Which sites are online, as far as it is known."""
    return {site["site"]: site["online"] for site in status(home)["sites"]}


def serial(home: Home) -> int:
    """Of the certificate that the server shows in a new connection."""
    from cryptography import x509

    context = ssl.create_default_context(cafile=str(home.federation.parent / "ca.crt"))
    with (
        socket.create_connection(("127.0.0.1", home.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        shown = line.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


@pytest.mark.long
def test_status_of_a_running_and_of_a_killed_server(tmp_path: Path) -> None:
    """A dead site shows, and that the server waits for it; after kill -9 no server is running."""
    home = make_home(tmp_path, rounds=1000, intervals=0.1)
    with home.running("stic-server", "start") as server:
        await_line(server, "listening on")
        before = serial(home)
        done(home, "stic-server", "renew")
        until(lambda: serial(home) != before, what="the server shows the renewed certificate")
        assert serial(home) == load_certificates(home.federation.parent / "server.crt")[0].serial_number
        with (
            home.running("stic-client", "--site", "center1") as first,
            home.running("stic-client", "--site", "center2") as second,
        ):
            await_line(first, "round 1 of 1000")
            await_line(second, "round 1 of 1000")
            until(lambda: online(home) == {"center1": True, "center2": True}, what="both online")
            until(lambda: status(home)["server"]["round"] is not None, what="the round shows")
            found = status(home)["server"]
            assert (found["state"], found["pid"], found["stage"]) == ("running", server.pid, "training")
            assert found["round"] >= 1
            second.kill()
            until(lambda: online(home)["center2"] is False, what="the dead site shows")
            until(
                lambda: any(text.startswith("center2") for text in status(home)["server"]["waiting"]),
                what="the server says that it waits for center2",
            )
            text = done(home, "stic-server", "status")
            assert "running since" in text
            assert "waiting for center2 (last seen" in text
            server.kill()
            server.wait(PATIENCE_S)
            # The sites' own state is unknown now, and when they were seen last is not.
            assert online(home) == {"center1": None, "center2": None}
    text = done(home, "stic-server", "status")
    assert "no server is running; the previous server was killed while training, round" in text
    assert "interrupted" in text


@pytest.mark.parametrize("name", ["server.key", "ca.key"])
def test_the_server_does_not_start_with_a_key_that_others_can_read(tmp_path: Path, name: str) -> None:
    """One line, exit code 2."""
    home = make_home(tmp_path, sites=("center1",))
    (home.federation.parent / name).chmod(0o644)
    result = home.run("stic-server", "start")
    assert result.returncode == 2
    assert f"{name} can be read by others; got mode 0644; expected 0600" in result.stderr
    assert "Traceback" not in result.stderr
