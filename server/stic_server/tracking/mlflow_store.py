"""A run in MLflow: one MLflow run per run, found again by its id, its figures by round."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from stic_server.tracking.figures import RunFigures

if TYPE_CHECKING:
    from mlflow.entities import Metric

T = TypeVar("T")

_TIMEOUT_S = 20
_BATCH = 900
"""MLflow takes 1000 metrics and 100 parameters or tags in one request."""
_FEW = 90

RUN_ID = "stic.run_id"
LAST_ROUND = "round"
"""The metric that is sent last of a round: its newest value says up to where MLflow has the run."""
HAS_EVALUATION = "stic.evaluation"


class MlflowStore:
    """A tracking server, or a database.

    Args:
        uri: MLflow's tracking URI.
    """

    def __init__(self, uri: str) -> None:
        # Read when mlflow is imported. What a user has set for their server counts.
        os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        os.environ["_MLFLOW_TELEMETRY_PRE_WARM_DATABRICKS_SDK"] = "false"  # it costs a second of each start
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_TIMEOUT_S))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # we try again ourselves
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        self._run: str | None = None
        self._last = 0
        self._evaluated = False

    def send(self, run: RunFigures, *, over: bool) -> None:
        """Send what MLflow lacks.

        Args:
            over: the server is about to end; a run that is not complete is marked as interrupted.

        Raises:
            Exception: whatever MLflow raises.
        """
        from mlflow.entities import Metric, RunTag

        if self._run is None:
            self._run = self._take_up(run)
        for one in run.rounds:
            if one.number > self._last:
                figures = {**one.figures, LAST_ROUND: float(one.number)}
                self._log([Metric(k, v, round(one.time * 1000), one.number) for k, v in figures.items()])
                self._last = one.number
        if run.complete and not self._evaluated:
            at, step = round((run.ended or run.began) * 1000), self._last
            self._log([Metric(name, value, at, step) for name, value in run.held_out.items()])
            self._tag(self._run, run)
            self._client.log_batch(self._run, tags=[RunTag(HAS_EVALUATION, "sent")])
            self._client.set_terminated(self._run, "FINISHED", at)
            self._evaluated = True
        elif over and not run.complete:
            self._tag(self._run, run)
            self._client.set_terminated(self._run, "KILLED")

    def _take_up(self, run: RunFigures) -> str:
        """The MLflow run of this run, as it is or new."""
        from mlflow.entities import Param

        experiment = self._client.get_experiment_by_name(run.name)
        where = self._client.create_experiment(run.name) if experiment is None else experiment.experiment_id
        found = self._client.search_runs([where], filter_string=f"tags.`{RUN_ID}` = '{run.run_id}'")
        if found:
            taken, data = found[0].info.run_id, found[0].data
            self._last = int(data.metrics.get(LAST_ROUND, 0))
            self._evaluated = HAS_EVALUATION in data.tags
            known = set(data.params)
            if not run.complete:
                self._client.update_run(taken, status="RUNNING")
        else:
            started = round(run.began * 1000)
            created = self._client.create_run(where, started, {RUN_ID: run.run_id}, run_name=run.run_id)
            taken, known = created.info.run_id, set()
        settings = [Param(name, value) for name, value in run.settings.items() if name not in known]
        for some in _parts(settings, _FEW):
            self._client.log_batch(taken, params=some)
        self._tag(taken, run)
        return taken

    def _tag(self, taken: str, run: RunFigures) -> None:
        from mlflow.entities import RunTag

        for some in _parts([RunTag(f"stic.{name}", value) for name, value in run.facts.items()], _FEW):
            self._client.log_batch(taken, tags=some)

    def _log(self, metrics: Iterable[Metric]) -> None:
        assert self._run is not None  # taken up before anything is sent
        for some in _parts(list(metrics), _BATCH):
            self._client.log_batch(self._run, metrics=some)


def _parts(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
