"""A hospital's client that is not ours answers with absurd figures, over TLS: nobody's run ends."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from stic_client import flower_app
from stic_client.flower_link import FleetLink
from stic_client.participation.participant import Participant
from stic_core.config import SiteConfig
from stic_core.config_files import load
from stic_core.protocol.messages import Report, encode
from stic_core.system.keys import load_private
from support.federation_kit import Recorder, make_home
from support.waiting import PATIENCE_S

pytestmark = pytest.mark.processes

ABSURD = {
    "round-report": ('"compute_seconds":', '"compute_seconds":1e999,"gone":'),
    "held-out-answer": ('"n":', '"n":' + "9" * 400 + ',"gone":'),
    "local-report": ('"best_epoch":', '"best_epoch":Infinity,"gone":'),
}


def test_absurd_figures_of_one_hospital_end_nobodys_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a double, four hundred digits, Infinity: named, left out, and the others' run is whole, report and all."""
    home = make_home(tmp_path, sites=("center1", "center2", "center3"), rounds=2)
    home.edit(home.federation, min_sites=2)
    site = load(home.site("center3") / "site.yaml", SiteConfig)

    def lying(report: Report) -> str:
        text = encode(report)
        return text.replace(*ABSURD[report.kind], 1) if report.kind in ABSURD else text

    monkeypatch.setattr(flower_app, "encode", lying)
    participant, over = Participant(site), threading.Event()
    link = FleetLink(
        site.server.address,
        ca=site.server.ca,
        key=load_private(site.key),
        state=tmp_path / "node.json",
        observer=Recorder(),
    )
    liar = threading.Thread(
        target=link.serve,
        args=(flower_app.client_app(participant),),
        kwargs={"node_config": {}, "until": lambda: over.is_set() or participant.finished is not None},
        daemon=True,
    )
    with (
        home.running("stic-server", "start") as server,
        home.running("stic-client", "--site", "center1", "--once", output=tmp_path / "center1.log"),
        home.running("stic-client", "--site", "center2", "--once", output=tmp_path / "center2.log"),
    ):
        liar.start()
        output, _ = server.communicate(timeout=PATIENCE_S)
    over.set()
    liar.join(PATIENCE_S)
    link._client._client.close()
    assert server.returncode == 0, output
    assert "Traceback" not in output
    assert "center3: its answer cannot be read" in output
    assert [row["sites"] for row in home.rounds()] == [["center1", "center2"]] * 2
    evaluation = json.loads((home.run_folder() / "evaluation.json").read_text())
    assert set(evaluation["sites"]) == {"center1", "center2"}
    assert set(evaluation["local_only"]) == {"center1", "center2"}
    assert (home.run_folder() / "report.html").exists()
