"""What MLflow and TensorBoard are told of a run: the figures of its folder, once, and no word more."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stic_core import config_files
from stic_core.config import FederationConfig
from stic_core.errors import ConfigError, UsageError
from stic_core.protocol.messages import RunPlan
from stic_server.federation.run_folder import RunFolder
from stic_server.tracking.__main__ import kinds_of, observe
from stic_server.tracking.figures import RunFigures, read_figures
from stic_server.tracking.processes import require_packages
from stic_server.tracking.tensorboard_files import TensorBoardFiles
from support.sample_run import write_sample_run


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of three rounds with a site that has too few patients to say anything."""
    folder = tmp_path_factory.mktemp("sample") / "20250607-101500-liver"
    return write_sample_run(folder, rounds=3, tiny_site=True)


@pytest.fixture
def run(sample: Path, tmp_path: Path) -> Path:
    """The sample, for one test alone."""
    return Path(shutil.copytree(sample, tmp_path / sample.name))


def numbers_of(value: Any) -> Iterator[float]:
    """Every number in a JSON document."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from numbers_of(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def test_every_figure_is_in_the_runs_folder(run: Path) -> None:
    """Nothing is computed from patients' figures on the way: what a site suppressed cannot come back."""
    figures = read_figures(run)
    evaluation = set(numbers_of(json.loads((run / "evaluation.json").read_text())))
    lines = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert len(figures.held_out) > 50
    assert set(figures.held_out.values()) <= evaluation
    for line, one in zip(lines, figures.rounds, strict=True):
        assert set(one.figures.values()) <= {*numbers_of(line), float(len(line["sites"]))}


def test_suppressed_figures_are_left_out(run: Path) -> None:
    """A site with one held-out patient has no AUC and no accuracy; another site has both."""
    held_out = read_figures(run).held_out
    assert "held_out/federated/center1/auc/HCC" in held_out
    assert not [name for name in held_out if "/center3/" in name]


def test_the_figures_of_a_round_are_those_of_the_report(run: Path) -> None:
    """By name and site, in the order of the rounds, with a time that does not depend on when they are sent."""
    figures, line = read_figures(run), json.loads((run / "rounds.jsonl").read_text().splitlines()[0])
    first = figures.rounds[0]
    assert first.number == 1
    assert first.time == pytest.approx(figures.began + line["seconds"])
    assert first.figures["validation_loss/pooled"] == line["val"]["pooled"]["loss"]
    assert first.figures["train_loss/center1"] == line["train_loss"]["center1"]
    assert figures.settings["training.batch_size"] == "32"
    assert figures.facts["version.torch"] == "2.8.0"


def test_a_run_that_is_not_complete_has_no_held_out_figures(run: Path) -> None:
    """An evaluation on the disk may be replaced until the record says that the run is complete."""
    folder = RunFolder(run)
    folder.update_record(status="running")
    figures = read_figures(run)
    assert not figures.complete
    assert figures.ended is None
    assert not figures.held_out


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values by tag, as TensorBoard reads them."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_reads_each_round_once_after_a_run_was_resumed(run: Path, tmp_path: Path) -> None:
    """The second server's files replace those of the first, whose last record a kill has torn."""
    folder, record = tmp_path / "events", RunFolder(run)
    record.update_record(status="running")
    lines = (run / "rounds.jsonl").read_text().splitlines(keepends=True)
    (run / "rounds.jsonl").write_text("".join(lines[:2]))
    TensorBoardFiles(folder).send(read_figures(run), over=False)
    (torn,) = folder.iterdir()
    torn.write_bytes(torn.read_bytes()[:-7])
    record.update_record(status="complete")
    (run / "rounds.jsonl").write_text("".join(lines))
    second = TensorBoardFiles(folder)
    second.send(read_figures(run), over=False)
    second.send(read_figures(run), over=True)
    found, figures = scalars(folder), read_figures(run)
    assert [step for step, _ in found["validation_loss/pooled"]] == [1, 2, 3]
    for one in figures.rounds:
        for name, value in one.figures.items():
            assert dict(found[name])[one.number] == pytest.approx(value)
    for name, value in figures.held_out.items():
        assert found[name] == [(3, pytest.approx(value))]


def test_only_event_files_are_deleted(run: Path, tmp_path: Path) -> None:
    """Somebody's notes beside them stay."""
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "notes.txt").write_text("mine")
    TensorBoardFiles(tmp_path / "events").send(read_figures(run), over=True)
    assert (tmp_path / "events" / "notes.txt").read_text() == "mine"


class Failing:
    """A store that fails as often as it is told, over all stores that were made.

    Args:
        failures: how often is left.
    """

    failures = 0
    made = 0

    def __init__(self) -> None:
        type(self).made += 1

    def send(self, run: RunFigures, *, over: bool) -> None:
        """Fail, or not."""
        if type(self).failures:
            type(self).failures -= 1
            raise ConnectionError("https://user:secret@mlflow.example.org") from TimeoutError("secret")


def failing(times: int) -> Callable[[], Failing]:
    """A maker of stores that fail so often."""
    return type("Counted", (Failing,), {"failures": times, "made": 0})


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        (0, []),
        (2, ["failing ConnectionError, TimeoutError", "again"]),
        (
            9,
            ["failing ConnectionError, TimeoutError", "lacks ConnectionError, TimeoutError"],
        ),
    ],
)
def test_a_failing_store_is_tried_again_and_said_once(run: Path, failures: int, said: list[str]) -> None:
    """Once when it begins, once when it works again, once when it lacks figures at the end; without its text."""
    lines: list[str] = []
    looks = iter([False, False, False, True])
    observe(failing(failures), run, over=lambda _: next(looks), say=lines.append)
    assert lines == said


def test_a_run_that_does_not_change_is_not_sent_again(run: Path) -> None:
    """One store, which is told at the beginning and at the end."""
    sent: list[bool] = []

    class Counting:
        def send(self, run: RunFigures, *, over: bool) -> None:
            sent.append(over)

    looks = iter([False, False, False, False, True])
    observe(Counting, run, over=lambda _: next(looks), say=pytest.fail)
    assert sent == [False, True]


def test_what_an_error_is_called() -> None:
    """Its kind and that of its cause, with MLflow's code, which has no address in it."""
    error = RuntimeError("postgresql://user:secret@db/mlflow")
    error.error_code = "INTERNAL_ERROR"  # pyright: ignore[reportAttributeAccessIssue]
    error.__cause__ = OSError("secret")
    assert kinds_of(error) == "RuntimeError INTERNAL_ERROR, OSError"


def federation(**tracking: object) -> FederationConfig:
    """A configuration with trackers."""
    return FederationConfig.model_validate({"tracking": tracking})


@pytest.mark.parametrize(
    "wrong",
    [
        "{mlflow: 'mysql:user:secret@db/mlflow'}",
        "{mlflow: /srv/mlruns}",
        "{mlflow: 'ftp://user:secret@host/'}",
        "{mlflow: ''}",
        "{tensorboard: false}",
        "{}",
    ],
)
def test_a_wrong_address_is_refused_without_its_password(tmp_path: Path, wrong: str) -> None:
    """The message says what is expected."""
    path = tmp_path / "federation.yaml"
    path.write_text(f"tracking: {wrong}\n")
    with pytest.raises(ConfigError) as refused:
        config_files.load(path, FederationConfig)
    assert "tracking" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_plan_and_the_record_do_not_know_who_tracks(tmp_path: Path) -> None:
    """Hospitals approve the same plan; no run keeps the address."""
    plain = FederationConfig(runs=tmp_path)
    tracked = federation(mlflow="https://user:secret@mlflow.example.org", tensorboard=True).model_copy(
        update={"runs": tmp_path}
    )
    plans = [RunPlan.of(one, (), sites={}, initial="0" * 64) for one in (plain, tracked)]
    assert plans[0].digest == plans[1].digest
    run = RunFolder.begin(tracked, plans[1])
    assert "tracking" not in run.read_record()["config"]
    assert "secret" not in "".join(path.read_text() for path in run.path.iterdir()) + repr(tracked)


def test_a_folder_for_tensorboard_is_beside_the_configuration(tmp_path: Path) -> None:
    """As every relative path of the file; `true` stays what it is."""
    path = tmp_path / "federation.yaml"
    path.write_text("tracking: {tensorboard: events}\n")
    loaded = config_files.load(path, FederationConfig).tracking
    assert loaded is not None
    assert loaded.tensorboard == tmp_path / "events"
    assert federation(tensorboard=True).tracking.tensorboard is True  # pyright: ignore[reportOptionalMemberAccess]


@pytest.mark.parametrize(
    ("tracking", "package"),
    [({"mlflow": "sqlite:///m.db"}, "mlflow-skinny"), ({"tensorboard": True}, "tensorboard")],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, tracking: dict[str, object], package: str
) -> None:
    """With the extra to install; nobody who asks for no tracker needs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_packages(None)
    with pytest.raises(UsageError, match=r"stic-federated\[tracking\]") as refused:
        require_packages(federation(**tracking).tracking)
    assert package in str(refused.value)
