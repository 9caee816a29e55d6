"""The metrics of both sides: every name and label, their values, and what must never be in them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from stic_client.metrics import ClientMetrics
from stic_core.monitoring.families import registry_of
from stic_core.system.names import SITE_NAME
from stic_core.system.observer import Observer
from stic_server.admission.certificates import make_certificates
from stic_server.admission.registry import Presence
from stic_server.federation.sites import LEFT_OUT, PART_STATES, RunObserver
from stic_server.http.listener import REFUSED
from stic_server.status.metrics import Looks, ServerMetrics
from support.metric_names import CLIENT, SERVER

ROW = {
    "round": 1,
    "sites": ["center1"],
    "seconds": 5.0,
    "overhead_seconds": 1.5,
    "bytes_by_site": {"center1": {"down": 100, "up": 70}},
    "train_loss": {"center1": 0.123456},
    "val": {"pooled": {"loss": 0.654321, "n": 424242, "accuracy": 0.987}},
}


def read(metrics: Collector) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What Prometheus reads: values by name and labels."""
    text = generate_latest(registry_of(metrics)).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's, with its certificates."""
    folder = tmp_path_factory.mktemp("server")
    make_certificates(folder, names=["127.0.0.1"])
    return folder


@pytest.fixture
def server(folder: Path) -> ServerMetrics:
    """Two sites, of which one was never seen; nothing happened yet."""
    presence = {"center1": Presence(True, 1000.5), "center2": Presence(False, None)}
    looks = Looks(
        presence=lambda: presence,
        serving=lambda: True,
        silent_s=lambda: 3.0,
        refused_requests=lambda: {401: 2},
        refused_connections=lambda: {"handshake": 7},
    )
    return ServerMetrics(RunObserver(), folder=folder, min_sites=2, looks=looks)


def _everything(server: ServerMetrics) -> ServerMetrics:
    """Whatever a run may tell, with texts and figures that must not be repeated."""
    server.note("patient P-SECRET cannot be used")
    server.stage("evaluating P-SECRET")
    server.progress("P-SECRET", 424242, 424243)
    server.parts({"center1": "is computing features, 424242 of 424243"})
    server.event("site-gone", "P-SECRET", site="P-SECRET")
    server.waiting(["center1 (P-SECRET)"], 424242)
    server.states({"center1": "takes-part", "center2": "approval"})
    server.left_out("center2", "refusal")
    server.round_begins(1, rounds=20)
    server.round_begins(2, rounds=20)
    server.round_done(ROW, rounds=20)
    return server


def _client() -> ClientMetrics:
    client = ClientMetrics(Observer(), silent_s=lambda: 3.0)
    client.note("patient P-SECRET cannot be used")
    client.progress("backbone features", 424242, 424243)
    client.reached()
    client.traffic(down=100)
    client.traffic(up=70)
    client.answered("train-round", "answered")
    client.answered("describe", "pending")
    return client


@pytest.fixture(params=["server", "client"])
def side(request: pytest.FixtureRequest, server: ServerMetrics) -> tuple[Collector, Mapping]:
    """Metrics after everything happened, and what they may be."""
    return (_everything(server), SERVER) if request.param == "server" else (_client(), CLIENT)


def test_every_name_and_label(side: tuple[Collector, Mapping]) -> None:
    """No metric but these, each with these labels; a new one is added here, and looked at."""
    metrics, expected = side
    found: dict[str, set[frozenset[str]]] = {}
    for name, labels in read(metrics):
        found.setdefault(name, set()).add(frozenset(label for label, _ in labels))
    assert found == {name: {frozenset(labels)} for name, labels in expected.items()}


def test_nothing_of_a_patient_and_no_free_text(side: tuple[Collector, Mapping]) -> None:
    """No figure of patients, no loss and no score of a round; labels are names of sites, versions and known words."""
    metrics, _ = side
    samples = read(metrics)
    for forbidden in (424242, 424243, 0.123456, 0.654321, 0.987):
        assert forbidden not in samples.values()
    words = {
        "site": SITE_NAME,
        "version": r"\d+\.\d+\.\d+\S*",
        "python": r"3\.\d+\.\d+\S*",
        "protocol": r"\d+",
        "status": r"\d{3}",
        "part": "compute|overhead",
        "direction": "down|up",
        "state": "|".join(PART_STATES),
        "kind": "|".join(LEFT_OUT),
        "reason": "|".join(REFUSED),
        "certificate": "server|ca|ca-next",
        "question": "describe|train-round|train-local|evaluate-held-out|finish",
        "decision": "answered|refused|pending|failed",
    }
    for _, labels in samples:
        for label, value in labels:
            assert re.fullmatch(words[label], value), (label, value)
            assert "SECRET" not in value


def test_the_servers_values(server: ServerMetrics) -> None:
    """Rounds, seconds by part, bytes by site and direction, sites, refusals, signs of life."""
    before = time.time()
    found = read(_everything(server))

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert (value("stic_rounds_done"), value("stic_rounds_planned")) == (1, 20)
    assert value("stic_round_seconds_total", part="compute") == 3.5
    assert value("stic_round_seconds_total", part="overhead") == 1.5
    assert value("stic_round_bytes_total", site="center1", direction="down") == 100
    assert value("stic_round_bytes_total", site="center1", direction="up") == 70
    assert (value("stic_sites_required"), value("stic_sites_expected"), value("stic_sites_online")) == (
        2,
        2,
        1,
    )
    assert (value("stic_site_online", site="center1"), value("stic_site_online", site="center2")) == (1, 0)
    assert value("stic_site_alive_timestamp_seconds", site="center1") == 1000.5
    assert ("stic_site_alive_timestamp_seconds", frozenset({("site", "center2")})) not in found
    assert value("stic_site_state", site="center2", state="approval") == 1
    assert value("stic_answers_left_out_total", site="center2", kind="refusal") == 1
    assert value("stic_requests_refused_total", status="401") == 2
    assert value("stic_connections_refused_total", reason="handshake") == 7
    assert value("stic_round_end_timestamp_seconds") >= before
    assert abs(value("stic_server_alive_timestamp_seconds") - (time.time() - 3)) < 60
    assert value("stic_certificate_end_timestamp_seconds", certificate="server") > before + 86_400


def test_a_round_is_done_when_the_next_begins(server: ServerMetrics) -> None:
    """Its row comes a round later, with its scores: that is not waited for, nor does it count twice."""
    done = "stic_rounds_done", frozenset[tuple[str, str]]()
    server.round_begins(6, rounds=20)  # resumed after round 5
    assert read(server)[done] == 5
    server.round_begins(7, rounds=20)
    server.round_done(ROW | {"round": 6}, rounds=20)
    assert read(server)[done] == 6


def test_the_clients_values() -> None:
    """Bytes by direction, answers by kind and by what became of them, the server's last answer."""
    found, last = read(_client()), ("stic_client_server_timestamp_seconds", frozenset[tuple[str, str]]())
    assert found["stic_client_bytes_total", frozenset({("direction", "down")})] == 100
    pending = frozenset({("question", "describe"), ("decision", "pending")})
    assert found["stic_client_answers_total", pending] == 1
    assert found[last] > time.time() - 3600
    assert read(ClientMetrics(Observer(), silent_s=lambda: 0.0))[last] == 0


def test_certificates_that_cannot_be_read_hide_nothing_else(tmp_path: Path) -> None:
    """One is missing or half written: the other metrics are told."""
    looks = Looks(dict, lambda: True, lambda: 0.0, dict, dict)
    metrics = ServerMetrics(RunObserver(), folder=tmp_path, min_sites=2, looks=looks)
    for content in (None, "-----BEGIN CERT"):
        if content is not None:
            (tmp_path / "server.crt").write_text(content)
        names = {name for name, _ in read(metrics)}
        assert "stic_certificate_end_timestamp_seconds" not in names
        assert "stic_rounds_done" in names
