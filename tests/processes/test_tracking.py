"""A run that MLflow and TensorBoard follow: killed and resumed it is there once; a tracker that hangs ends nothing."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stic_core.config import TrackingConfig
from stic_server.tracking.figures import read_figures
from stic_server.tracking.processes import observed
from support.accidents import torn
from support.federation_kit import Recorder, make_home
from support.sample_run import write_sample_run
from support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.processes

SITES = ("center1", "center2")


@pytest.mark.long
def test_a_resumed_run_is_one_run_of_mlflow_and_tensorboard(tmp_path: Path) -> None:
    """The server is killed in round 2; a real store has every figure of every round once, and nothing else is said."""
    home = make_home(tmp_path, sites=SITES, rounds=3)
    home.edit(home.federation, tracking={"mlflow": "sqlite:///mlflow.db", "tensorboard": True})
    log = tmp_path / "server.out"
    with (
        home.running("stic-client", "--site", "center1", "--once", output=tmp_path / "center1.log"),
        home.running("stic-client", "--site", "center2", "--once", output=tmp_path / "center2.log"),
    ):
        for accident, code in ((torn("round-00002"), -signal.SIGKILL), (None, 0)):
            with home.running("stic-server", "start", output=log, accident=accident) as server:
                assert server.wait(PATIENCE_S) == code, log.read_text()
    run, said = home.run_folder(), log.read_text()
    figures = read_figures(run)
    assert [one.number for one in figures.rounds] == [1, 2, 3]
    with closing(sqlite3.connect(home.path / "server" / "mlflow.db")) as store:
        runs = store.execute("SELECT run_uuid, name, status FROM runs").fetchall()
        metrics = store.execute("SELECT key, step, value FROM metrics").fetchall()
        params = dict(store.execute("SELECT key, value FROM params").fetchall())
        (experiment,) = store.execute("SELECT name FROM experiments WHERE experiment_id != 0").fetchone()
    assert experiment == "test"
    assert [(name, status) for _, name, status in runs] == [(run.name, "FINISHED")]
    expected = {(name, one.number): value for one in figures.rounds for name, value in one.figures.items()}
    # The killed server's seconds of a round that is done again were sent already, and stay.
    expected |= {("round", number): float(number) for number in (1, 2, 3)}
    expected |= {(name, 3): value for name, value in figures.held_out.items()}
    assert len(metrics) == len(expected)
    timed = {"seconds", "overhead_seconds"}
    found = {(key, step): value for key, step, value in metrics}
    assert found.keys() == expected.keys()
    assert {k: v for k, v in found.items() if k[0] not in timed} == pytest.approx(
        {k: v for k, v in expected.items() if k[0] not in timed}
    )
    assert params["model.backbone"] == "tiny"
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [event.step for event in events.Scalars("validation_loss/pooled")] == [1, 2, 3]
    assert "mlflow" not in said.lower()
    assert "tracking" not in json.loads((run / "record.json").read_text())["config"]


def test_a_tracker_that_hangs_does_not_keep_the_run(tmp_path: Path) -> None:
    """A server that takes the request and never answers: its process is ended, and that is said without the address."""
    run, observer = write_sample_run(tmp_path / "run"), Recorder()
    asked = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as deaf:

        def take() -> None:
            connection, _ = deaf.accept()
            with connection:
                while connection.recv(65536):  # until its process is ended
                    asked.set()

        taking = threading.Thread(target=take)
        taking.start()
        uri = f"http://user:secret@127.0.0.1:{deaf.getsockname()[1]}"
        tracking = TrackingConfig.model_validate({"mlflow": uri})
        with observed(tracking, run=run, folder=tmp_path, observer=observer, end_s=0.2):
            until(asked.is_set, what="a request of MLflow's client")
        taking.join()
    assert observer.notes == ["MLflow took too long and lacks figures; the run's folder has them all"]
