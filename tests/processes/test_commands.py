"""The commands as a hospital and a coordinator run them: real processes, real TLS, real keys."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
from pathlib import Path

import httpx
import pytest

from stic_client.connection.tls import pinned
from stic_core.system.keys import load_private
from stic_server.admission.certificates import make_certificates
from support.federation_kit import Home, free_port, make_home
from support.waiting import PATIENCE_S, await_line

pytestmark = pytest.mark.processes


def test_two_sites_train_together_over_tls(tmp_path: Path) -> None:
    """Server and two clients by their console scripts: a run with every file, and exit code 0 all around."""
    home = make_home(tmp_path, rounds=2)
    with (
        home.running("stic-client", "--site", "center1", "--once", script=True) as first,
        home.running("stic-client", "--site", "center2", "--once", script=True) as second,
        home.running("stic-server", "start", script=True) as server,
    ):
        output, _ = server.communicate(timeout=PATIENCE_S)
        assert server.returncode == 0, output
        assert first.wait(PATIENCE_S) == 0
        assert second.wait(PATIENCE_S) == 0
    assert "PHANTOM DATA" in output
    assert "Traceback" not in output
    run = home.run_folder()
    assert str(run / "report.html") in output
    rows = home.rounds()
    assert [row["sites"] for row in rows] == [["center1", "center2"]] * 2
    record = json.loads((run / "record.json").read_text())
    weights = 4 * sum(
        spec_size(spec) for spec in json.loads((run / "model/model.json").read_text())["tensors"]
    )
    assert record["status"] == "complete"
    # One flat array each way and a site, and little beside it.
    for row in rows:
        assert 2 * weights < row["bytes_down"] < 2 * weights + 20_000
        assert 2 * weights < row["bytes_up"] < 2 * weights + 20_000
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert set(evaluation["sites"]) == set(evaluation["local_only"]) == {"center1", "center2"}


def spec_size(spec: dict) -> int:
    """Values in a tensor."""
    size = 1
    for axis in spec["shape"]:
        size *= axis
    return size


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A server that waits for more sites than will come."""
    home = make_home(tmp_path_factory.mktemp("serving"), sites=("center1", "center2"))
    with home.running("stic-server", "start") as server:
        await_line(server, "listening on")
        yield home


def _context(home: Home) -> ssl.SSLContext:
    """What the admitted site center1 connects with."""
    return pinned(home.path / "server" / "ca.crt", key=load_private(home.site("center1") / "site.key"))


def test_a_key_that_nobody_admitted_is_refused(serving: Home, tmp_path: Path) -> None:
    """A site with a key of its own making: one line, exit code 3."""
    stranger = Home(tmp_path, serving.port)
    made = stranger.run(
        *("stic-client", "--site", "stranger", "enroll", "--server", f"127.0.0.1:{serving.port}"),
        *("--ca", str(serving.path / "server" / "ca.crt"), "--data", str(tmp_path)),
    )
    assert made.returncode == 0, made.stderr
    result = stranger.run("stic-client", "--site", "stranger")
    assert result.returncode == 3
    last = result.stderr.strip().splitlines()[-1]
    assert " stic-client: the server does not admit this site" in last  # behind the time
    assert "stic-server admit" in last
    assert "Traceback" not in result.stderr


def test_a_server_with_another_ca_is_refused(serving: Home, tmp_path: Path) -> None:
    """The client trusts the CA that it pinned and no other: one line, exit code 3, nothing sent."""
    make_certificates(tmp_path, names=["127.0.0.1"])
    home = Home(tmp_path, serving.port)
    home.run(
        *("stic-client", "--site", "center1", "enroll", "--server", f"127.0.0.1:{serving.port}"),
        *("--ca", str(tmp_path / "ca.crt"), "--data", str(tmp_path)),
    )
    result = home.run("stic-client", "--site", "center1")
    assert result.returncode == 3
    assert "the certificate of 127.0.0.1" in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/docs",
        "/openapi.json",
        "/v1/control/start-run",
        "/v1/fleet/register-node",
        "/v1/fleet/get-fab",
    ],
)
def test_nothing_but_a_sites_endpoints_is_there(serving: Home, path: str) -> None:
    """Control, runtime, registration, app bundles and documentation answer 404."""
    url = f"https://127.0.0.1:{serving.port}{path}"
    context = _context(serving)
    with httpx.Client(verify=context, trust_env=False) as client:
        assert client.get(url).status_code == 404
        assert client.post(url, content=b"x").status_code == 404


def test_a_body_over_the_limit_is_refused_before_it_is_read(serving: Home) -> None:
    """413 for a length over the limit, 411 for a body without one."""
    context = _context(serving)

    def status(*headers: tuple[str, str]) -> int:
        connection = http.client.HTTPSConnection("127.0.0.1", serving.port, context=context, timeout=10)
        connection.putrequest("POST", "/v1/fleet/push-object")
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        answered = connection.getresponse().status
        connection.close()
        return answered

    assert status(("content-length", str(1 << 40))) == 413
    assert status(("transfer-encoding", "chunked")) == 411


def test_a_taken_port_is_one_line(serving: Home, tmp_path: Path) -> None:
    """A server of another federation on the same port: exit code 1, and what to do."""
    other = make_home(tmp_path, sites=("center1",))
    other.edit(other.federation, listen__port=serving.port)
    result = other.run("stic-server", "start")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert f" stic-server: cannot listen on 127.0.0.1:{serving.port}" in last
    assert "listen.port" in last
    assert "Traceback" not in result.stderr


def test_a_client_says_what_it_tries_and_leaves_on_ctrl_c(tmp_path: Path) -> None:
    """No server: tries, each wait twice the one before, and exit code 130 on SIGINT."""
    home = make_home(tmp_path, sites=("center1",))
    home.edit(home.site("center1") / "site.yaml", server__address=f"127.0.0.1:{free_port()}")
    with home.running("stic-client", "--site", "center1") as client:
        waits = [float(await_line(client, "next try in")[-1].split()[-2]) for _ in range(3)]
        assert waits == [waits[0], 2 * waits[0], 4 * waits[0]]
        client.send_signal(signal.SIGINT)
        assert client.wait(PATIENCE_S) == 130


def test_a_server_leaves_on_ctrl_c(tmp_path: Path) -> None:
    """SIGINT while it waits for sites: exit code 130."""
    home = make_home(tmp_path, sites=("center1",))
    with home.running("stic-server", "start") as server:
        await_line(server, "waiting for the sites")
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE_S) == 130
