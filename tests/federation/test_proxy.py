"""A proxy between a site and its server: which one is taken, and what is said when it says no."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stic_client.connection.tls import proxy_of
from stic_client.flower_requests import ask_admission
from stic_client.preflight.network import check_online
from stic_core.config import SiteConfig
from stic_core.errors import UntrustedServerError, UsageError
from stic_core.system.keys import load_private, make_key_pair
from stic_server.admission.certificates import make_certificates
from stic_server.admission.registry import admit
from stic_server.flower_link import FleetServer, Listen
from support.federation_kit import free_port
from support.namespaces import middle_host

WORD = "correct-horse"


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A server that admits one site: its folder and port."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    make_certificates(folder, names=["127.0.0.1"])
    admit(folder / "sites", name="center1", public_key=make_key_pair(folder / "center1.key"))
    server = FleetServer(
        Listen("127.0.0.1", port, folder / "server.crt", folder / "server.key", folder / "ca.crt")
    )
    server.watch(folder / "sites")
    server.start()
    yield folder, port
    server.stop()


def _ask(served: tuple[Path, int], *, ca: Path | None = None) -> str:
    folder, port = served
    key = load_private(folder / "center1.key")
    return ask_admission(f"127.0.0.1:{port}", ca=ca or folder / "ca.crt", key=key)


def test_the_way_leads_through_the_proxy(
    served: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the right password a tunnel is opened and the server answers; NO_PROXY goes around it."""
    port = free_port()
    with middle_host("--port", str(port), "--credentials", f"clerk:{WORD}", log=tmp_path / "log") as log:
        monkeypatch.setenv("HTTPS_PROXY", f"http://clerk:{WORD}@127.0.0.1:{port}")
        assert _ask(served) == "admitted"
        assert log.read_text().count(f'"opened": "127.0.0.1:{served[1]}"') == 1
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert _ask(served) == "admitted"
        assert log.read_text().count("opened") == 1


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--credentials", "clerk:another"), "answers 407 Proxy Authentication Required; it requires a user"),
        (
            ("--forbidden",),
            "answers 403 Forbidden; ask the network's operators to allow this machine to CONNECT to",
        ),
    ],
)
def test_a_proxy_that_refuses_is_named(
    served: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: tuple[str, ...],
    said: str,
) -> None:
    """Its host and port and what it answers, with what to do; never the password."""
    port = free_port()
    monkeypatch.setenv("HTTPS_PROXY", f"http://clerk:{WORD}@127.0.0.1:{port}")
    proxy = middle_host("--port", str(port), *option, log=tmp_path / "log")
    with proxy, pytest.raises(ConnectionError) as refused:
        _ask(served)
    assert str(refused.value).startswith(f"the proxy 127.0.0.1:{port} {said}")
    assert WORD not in str(refused.value)


def test_check_goes_through_the_proxy(
    served: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the proxy, and sees the server's own certificate and clock behind it; a refusal is one problem."""
    folder, port = served
    site = SiteConfig.model_validate(
        {
            "site": "center1",
            "server": {"address": f"127.0.0.1:{port}", "ca": folder / "ca.crt"},
            "key": folder / "center1.key",
        }
    )

    def ask(loaded: SiteConfig) -> str:
        return _ask(served)

    gate = free_port()
    with middle_host("--port", str(gate), "--credentials", f"clerk:{WORD}", log=tmp_path / "log"):
        monkeypatch.setenv("HTTPS_PROXY", f"http://clerk:{WORD}@127.0.0.1:{gate}")
        checks = {check.name: check for check in check_online(site, ask=ask)}
        assert "reached through the proxy 127.0.0.1:" in checks["server"].found
        assert {check.status for check in checks.values()} == {"ok"}
        monkeypatch.setenv("HTTPS_PROXY", f"http://clerk:wrong@127.0.0.1:{gate}")
        first, *others = check_online(site, ask=ask)
    assert first.status == "problem"
    assert f"not reached: the proxy 127.0.0.1:{gate} answers 407" in first.found
    assert {check.status for check in others} == {"skipped"}
    assert WORD not in str([*checks.values(), first])


def test_a_proxy_that_is_not_there_is_named(
    served: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the proxy that is not reached, not the server."""
    port = free_port()
    monkeypatch.setenv("HTTPS_PROXY", f"http://clerk:{WORD}@127.0.0.1:{port}")
    with pytest.raises(ConnectionError, match=f"^the proxy 127.0.0.1:{port} cannot be reached$"):
        _ask(served)


def test_a_proxy_cannot_stand_for_the_server(
    served: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers at the end of the tunnel needs a certificate of the pinned CA."""
    make_certificates(tmp_path / "other", names=["127.0.0.1"])
    port = free_port()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    with (
        middle_host("--port", str(port), log=tmp_path / "log"),
        pytest.raises(UntrustedServerError, match=f"127.0.0.1:{served[1]} is not trusted, or its proxy's"),
    ):
        _ask(served, ca=tmp_path / "other" / "ca.crt")


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy.hospital:3128"}, "proxy.hospital:3128"),
        ({"https_proxy": "proxy.hospital:3128"}, "proxy.hospital:3128"),
        ({"ALL_PROXY": f"http://clerk:{WORD}@proxy.hospital"}, "proxy.hospital:80"),
        ({"HTTPS_PROXY": "https://proxy.hospital"}, "proxy.hospital:443"),
        ({"HTTP_PROXY": "http://proxy.hospital:3128"}, None),
        ({"HTTPS_PROXY": "http://proxy.hospital:3128", "NO_PROXY": "stic.example.org"}, None),
        ({"HTTPS_PROXY": "http://proxy.hospital:3128", "NO_PROXY": "example.org"}, None),
        ({"HTTPS_PROXY": "http://proxy.hospital:3128", "NO_PROXY": "example.com"}, "proxy.hospital:3128"),
    ],
)
def test_which_proxy(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], proxy: str | None) -> None:
    """HTTPS_PROXY, else ALL_PROXY, less NO_PROXY; the user and the password are not part of its name."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_of("stic.example.org:8443") == proxy


@pytest.mark.parametrize("value", [f"socks5://clerk:{WORD}@proxy:1080", f"http://clerk:{WORD}@", "x://"])
def test_a_proxy_that_cannot_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """What was expected is said; what was got may hold a password and is not."""
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(UsageError) as error:
        proxy_of("stic.example.org:8443")
    assert error.value.expected == "http://[user:password@]host:port"
    assert WORD not in str(error.value)


def test_transport_errors_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is the server's own."""
    from stic_client.connection.faults import why

    assert why(httpx.ConnectError("refused"), "127.0.0.1:1") == "no connection"
