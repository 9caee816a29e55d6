"""Health and metrics of real programs: what they answer while a run goes on, hangs, and is over."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stic_core.monitoring.health import ask
from support.accidents import said
from support.federation_kit import Home, free_port, make_home
from support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.processes

Figures = dict[tuple[str, ...], float]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """One site and three rounds; both sides have ports for health and metrics."""
    home = make_home(tmp_path, sites=("center1",), rounds=3)
    for path in (home.federation, home.site("center1") / "site.yaml"):
        home.edit(path, monitoring={"health_port": free_port(), "metrics_port": free_port()})
    home.edit(home.federation, local_only=False)
    return home


def _ports(path: Path) -> tuple[int, int]:
    import yaml

    found = yaml.safe_load(path.read_text())["monitoring"]
    return found["health_port"], found["metrics_port"]


def _scrape(port: int) -> Figures:
    """Values by name and the labels' values in the order of their names."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_health_and_metrics_of_a_run(home: Home) -> None:
    """The server serves from its start, with the figures of `rounds.jsonl`; who hangs or is gone does not answer."""
    health, metrics = _ports(home.federation)
    site_health, site_metrics = _ports(home.site("center1") / "site.yaml")
    log, site_log = home.path / "server.log", home.path / "client.log"
    client = ("stic-client", "--site", "center1")
    hangs = said("held-out set opened", signal.SIGSTOP)
    with home.running("stic-server", "start", "--stay", output=log) as server:
        until(lambda: ask("127.0.0.1", health) == "serving", what="the server serves", alive=server)
        answer = home.run("stic-server", "health")
        assert (answer.returncode, answer.stdout) == (0, "serving\n")
        found = _scrape(metrics)
        assert (found["stic_server_serving",], found["stic_sites_online",]) == (1, 0)
        assert (found["stic_sites_expected",], found["stic_rounds_planned",]) == (1, 0)
        with home.running(*client, output=site_log, accident=hangs) as site:
            until(
                lambda: "held-out set opened" in site_log.read_text(),
                what=lambda: log.read_text() + site_log.read_text(),
                alive=server,
            )
            answer = home.run(*client, "health")
            assert (answer.returncode, answer.stdout) == (1, "no answer\n")
            _check_figures(home, _scrape(metrics))
            site.send_signal(signal.SIGCONT)
            until(
                lambda: "is over; waiting to be stopped" in log.read_text(), what=log.read_text, alive=server
            )
            assert [ask("127.0.0.1", port) for port in (health, site_health)] == ["serving", "serving"]
            _check_answers(home, _scrape(site_metrics))
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 130
    answer = home.run("stic-server", "health")
    assert (answer.returncode, answer.stdout) == (1, "no answer\n")
    # What restarts every program that ends must not begin the same run again.
    with home.running("stic-server", "start", "--stay", output=home.path / "again.log") as server:
        again = home.path / "again.log"
        until(
            lambda: "is over; waiting to be stopped" in again.read_text(), what=again.read_text, alive=server
        )
        assert home.run_folder().name in again.read_text()


def _check_figures(home: Home, found: Figures) -> None:
    rows = home.rounds()
    record = json.loads((home.run_folder() / "record.json").read_text())
    assert len(rows) == record["rounds"] == found["stic_rounds_done",] == found["stic_rounds_planned",] == 3
    assert {key[1] for key in found if key[0] == "stic_site_online"} == set(record["sites"])
    assert found["stic_site_state", "center1", "takes-part"] == 1
    overhead = sum(row["overhead_seconds"] for row in rows)
    assert found["stic_round_seconds_total", "overhead"] == pytest.approx(overhead)
    whole = sum(row["seconds"] for row in rows)
    assert found["stic_round_seconds_total", "compute"] == pytest.approx(whole - overhead)
    for direction in ("down", "up"):
        told = sum(row["bytes_by_site"]["center1"][direction] for row in rows)
        assert found["stic_round_bytes_total", direction, "center1"] == told > 0
    assert {value for key, value in found.items() if key[0] == "stic_answers_left_out_total"} == {0}


def _check_answers(home: Home, found: Figures) -> None:
    """What became of each question is what the site's own log says."""
    lines = (home.site("center1") / "audit.jsonl").read_text().splitlines()
    entries = [entry for entry in map(json.loads, lines) if entry["direction"] == "in"]
    logged = Counter((entry["decision"], entry["kind"]) for entry in entries)
    assert logged["answered", "train-round"] == 4  # three rounds, and a look at the last one's model
    assert {key[1:]: value for key, value in found.items() if key[0] == "stic_client_answers_total"} == logged
    assert found["stic_client_bytes_total", "down"] > 0 < found["stic_client_bytes_total", "up"]
