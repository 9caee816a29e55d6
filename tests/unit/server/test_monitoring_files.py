"""deploy/monitoring: dashboard and alerts ask for metrics and labels that exist, and are whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.metric_names import CLIENT, SERVER

FOLDER = Path(__file__).parents[3] / "deploy" / "monitoring"
METRICS: Mapping[str, tuple[str, ...]] = {**SERVER, **CLIENT}
SCRAPED = {"job", "instance"}
"""Labels that Prometheus adds."""


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _panels() -> list[dict[str, Any]]:
    return json.loads((FOLDER / "dashboard.json").read_text())["panels"]


def _queries() -> Iterator[str]:
    yield from (rule["expr"] for rule in _rules())
    yield from (target["expr"] for panel in _panels() for target in panel.get("targets", []))


@pytest.mark.parametrize("query", sorted(set(_queries())))
def test_what_is_asked_exists(query: str) -> None:
    """Each metric is one of ours, and each label one of its labels."""
    names = re.findall(r"\bstic_[a-z_]+", query)
    if not names:
        assert re.fullmatch(r'up\{job="stic-(server|client)"\} == 0', query)
    known = SCRAPED.union(*(METRICS[name] for name in names))
    labels = {
        label for inner in re.findall(r"\{([^}]*)\}", query) for label in re.findall(r"(\w+)\s*[=!]", inner)
    }
    by = {label for inner in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", inner)}
    assert labels | by <= known
    for name in names:
        # A counter is asked how much it grew; anything else as it is.
        grew = re.search(rf"increase\({name}", query) is not None
        assert grew == name.endswith("_total"), name


def test_every_alert_is_whole() -> None:
    """A name of its own, how bad it is, and two sentences; the page says what to do about each."""
    names = [rule["alert"] for rule in _rules()]
    assert len(set(names)) == len(names)
    page = (FOLDER.parents[1] / "docs" / "monitoring.md").read_text()
    for rule in _rules():
        assert rule.keys() - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert {"summary", "description"} == rule["annotations"].keys()
        assert f"`{rule['alert']}`" in page
        for label in re.findall(r"\$labels\.(\w+)", str(rule["annotations"])):
            assert label in rule["expr"] or any(
                label in METRICS[name] for name in METRICS if name in rule["expr"]
            )


def test_every_alert_has_a_trial() -> None:
    """`alerts.test.yaml` names each; promtool runs it (make deploy-test)."""
    text = (FOLDER / "alerts.test.yaml").read_text()
    assert {rule["alert"] for rule in _rules()} == set(re.findall(r'alertname="(\w+)"', text))


def test_the_dashboard_is_whole() -> None:
    """Every metric of the server but build and start is shown; panels have names of their own and do not overlap."""
    document = json.loads((FOLDER / "dashboard.json").read_text())
    assert document["schemaVersion"] >= 39  # Grafana 11; newer ones migrate it
    assert "id" not in document  # Grafana gives it one when it is imported
    assert [one["name"] for one in document["templating"]["list"]] == ["datasource", "job", "instance"]
    shown = {name for query in _queries() for name in re.findall(r"\bstic_[a-z_]+", query)}
    assert {name for name in METRICS if name not in shown} == {
        *("stic_server_build_info", "stic_server_start_timestamp_seconds", "stic_sites_expected"),
        *("stic_client_build_info", "stic_client_start_timestamp_seconds", "stic_client_bytes_total"),
    }
    panels = _panels()
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) == 23
    for panel in panels:
        assert panel["type"] in {"row", "stat", "timeseries", "state-timeline", "table"}
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_the_page_has_every_metric() -> None:
    """With its labels, in the row of its name."""
    rows = (FOLDER.parents[1] / "docs" / "monitoring.md").read_text().splitlines()
    for name, labels in METRICS.items():
        (row,) = [row for row in rows if row.startswith("| `stic_") and f"`{name}`" in row]
        assert re.findall(r"`(\w+)`", row.split("|")[2]) == list(labels), name
