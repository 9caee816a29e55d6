"""Requests that somebody captured and sends again, while a run goes on."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from stic_client.connection.tls import pinned
from stic_client.flower_app import client_app
from stic_client.flower_link import FleetLink
from stic_client.participation.participant import Participant
from stic_core.config import SiteConfig
from stic_core.config_files import load
from stic_core.protocol.audit_log import AuditLog
from stic_core.system.keys import load_private
from support.federation_kit import Recorder, make_home
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.processes


def test_every_request_sent_twice_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte of a site's requests, captured before TLS and sent again: 401, and the run is as without.

    The server is a process of its own; center2's link runs here. Each request is replayed at
    once, and each pull also before the next one, where it would take the site's next question.
    """
    home = make_home(tmp_path, rounds=3)
    context = pinned(home.path / "server" / "ca.crt", key=load_private(home.site("center2") / "site.key"))
    replayed: Counter[tuple[str, int]] = Counter()
    pulls: list[httpx.Request] = []
    send = httpx.Client.send
    again = httpx.Client(verify=context, trust_env=False)

    def replay(request: httpx.Request) -> None:
        copy = httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
        answer = send(again, copy)
        replayed[request.url.path.rpartition("/")[2], answer.status_code] += 1

    def tapped(client: httpx.Client, request: httpx.Request, **kwargs: Any) -> httpx.Response:
        request.read()
        if request.url.path.endswith("pull-messages"):
            if pulls:
                replay(pulls[-1])
            pulls.append(request)
        answer = send(client, request, **kwargs)
        replay(request)
        return answer

    monkeypatch.setattr(httpx.Client, "send", tapped)
    site = load(home.site("center2") / "site.yaml", SiteConfig)
    link = FleetLink(
        site.server.address,
        ca=site.server.ca,
        key=load_private(site.key),
        state=tmp_path / "node.json",
        observer=Recorder(),
    )
    over, participant = threading.Event(), Participant(site)
    site_thread = threading.Thread(
        target=link.serve,
        args=(client_app(participant),),
        kwargs={
            "node_config": {},
            "until": lambda: over.is_set() or participant.finished is not None,
        },
        daemon=True,
    )
    with (
        home.running("stic-server", "start") as server,
        home.running("stic-client", "--site", "center1", "--once", output=tmp_path / "center1.log"),
    ):
        site_thread.start()
        output, _ = server.communicate(timeout=PATIENCE_S)
    over.set()
    site_thread.join(PATIENCE_S)
    link._client._client.close()
    again.close()
    assert server.returncode == 0, output
    assert {status for _, status in replayed} == {401}
    for endpoint in ("activate-node", "pull-messages", "pull-object", "push-messages", "push-object"):
        assert replayed[endpoint, 401] > 0
    assert "center2: the same signed request came twice; the second was rejected" in output
    assert [(row["round"], row["sites"]) for row in home.rounds()] == [
        (number, ["center1", "center2"]) for number in (1, 2, 3)
    ]
    answered = Counter(
        (line["peer"], line["kind"], line["round"])
        for line in AuditLog(home.path / "server" / "audit.jsonl").read()
        if line["direction"] == "in" and line["kind"] == "round-report"
    )
    assert set(answered.values()) == {1}
    assert len(answered) == 2 * 4  # three rounds, and the last look
