"""What a run survives: processes that are killed anywhere, sites that are slow, dead, and back."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.accidents import Accident, read, replaced, said, torn
from support.federation_kit import Home, make_home
from support.programs import Process
from support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.processes

ROUNDS = 6
SITES = ("center1", "center2")


class Federation:
    """A server and two clients as processes that die and are started again.

    Args:
        home: where they live; what they say goes to files there.
    """

    def __init__(self, home: Home, stack: ExitStack) -> None:
        self.home, self._stack = home, stack
        self.processes: dict[str, Process] = {}

    def start(self, name: str, *, accident: Accident | None = None) -> None:
        """Start `server` or a site."""
        words = ("stic-server", "start") if name == "server" else ("stic-client", "--site", name, "--once")
        running = self.home.running(*words, output=self.home.path / f"{name}.log", accident=accident)
        self.processes[name] = self._stack.enter_context(running)

    def said(self, name: str) -> str:
        """All that a process, and those before it, wrote."""
        return (self.home.path / f"{name}.log").read_text()

    def until(self, what: Callable[[], object]) -> None:
        """Wait."""
        until(what, what=lambda: "the server said:\n" + self.said("server"), alive=self.processes["server"])

    def go_through(self, **accidents: list[Accident]) -> None:
        """Start all, each again whenever it dies of an accident, with its next one, until the run is over."""
        ahead = {name: [*accidents.get(name, []), None] for name in (*SITES, "server")}
        for name, coming in ahead.items():
            self.start(name, accident=coming.pop(0))
        deadline = time.monotonic() + PATIENCE_S
        while any(process.poll() is None for process in self.processes.values()):
            for name, process in list(self.processes.items()):
                if process.poll() == -signal.SIGKILL:
                    self.start(name, accident=ahead[name].pop(0))
            assert time.monotonic() < deadline, self.said("server")
            time.sleep(0.05)
        for name, process in self.processes.items():
            assert process.wait() == 0, self.said(name)
        assert not any(ahead.values()), "an accident did not happen"

    def check_audits(self) -> None:
        """Every log is whole, though its writer was killed."""
        for words in (
            ("stic-server", "audit"),
            *(("stic-client", "--site", site, "audit") for site in SITES),
        ):
            audit = self.home.run(*words)
            assert audit.returncode == 0, audit.stderr
            assert "the chain of hashes is whole" in audit.stdout


@contextmanager
def _federation(path: Path, *, intervals: float = 0.5, **changes: object) -> Iterator[Federation]:
    home = make_home(path, sites=SITES, intervals=intervals)
    home.edit(home.federation, **changes)
    with ExitStack() as stack:
        yield Federation(home, stack)


# The same moments on CI, other ones in each run elsewhere; a test that fails shows the seed in its name.
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID")  # workers name tests alike
SEED = 0 if "CI" in os.environ else random.Random(RUN).randrange(1 << 32)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [{"transport": "float32"}, {"transport": "int8"}, {"secure_aggregation": True, "local_only": False}],
    ids=["float32", "int8", "masked"],
)
@pytest.mark.parametrize("seed", [SEED])
def test_a_run_that_was_killed_ends_with_the_same_model(
    tmp_path: Path, seed: int, changes: dict[str, object]
) -> None:
    """The server killed while it writes a checkpoint, in a round, in the evaluation and after it; a client too.

    With int8 a site also has its rounding error of the round before, on its disk; with secure aggregation the
    keys of its masks, and the server the sum that it was about to open.

    With determinism, model and evaluation are those of the run that nobody disturbed, bit for bit;
    every round is done once.
    """
    chance = random.Random(seed)
    with _federation(tmp_path / "whole", rounds=ROUNDS, **changes) as undisturbed:
        undisturbed.go_through()
    with _federation(tmp_path / "killed", rounds=ROUNDS, **changes) as killed:
        killed.go_through(
            server=[
                torn("round-00002"),
                *([torn("masked-sum")] if "secure_aggregation" in changes else []),
                read(chance.randrange(1, 40), after="round-00003"),
                torn("evaluation.json"),
                replaced("record.json", holding='"complete"'),
            ],
            **{chance.choice(SITES): [read(chance.randrange(20, 60), after="")]},
        )
        assert [row["round"] for row in killed.home.rounds()] == list(range(1, ROUNDS + 1))
        assert killed.said("server").count("resuming run") >= 2
        assert "Traceback" not in "".join(map(killed.said, ("server", *SITES)))
        killed.check_audits()
    run, whole = killed.home.run_folder(), undisturbed.home.run_folder()
    for name in ("model/model.safetensors", "evaluation.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    record, before = (json.loads((one / "record.json").read_text()) for one in (run, whole))
    assert record["report"] == "written"
    assert record["model_digest"] == before["model_digest"]
    assert record["best_round"] == before["best_round"]


@pytest.mark.long
def test_a_slow_site_and_a_dead_one(tmp_path: Path) -> None:
    """Neither stops the others; a late answer counts nowhere; who is back joins the next round.

    center2 stands still from the moment when it has trained round 4, past the deadline of that round;
    later it is killed, and started again once the server has said for how long it is missed.
    """
    with _federation(tmp_path, intervals=0.1, rounds=1000, min_sites=1, round_timeout_s=5) as made:

        def rounds_of(*sites: str) -> list[int]:
            return [row["round"] for row in made.home.rounds() if set(sites) <= set(row["sites"])]

        made.start("center1")
        made.start("center2", accident=said("round 4 of 1000", signal.SIGSTOP))
        made.start("server")
        made.until(lambda: max(rounds_of("center1"), default=0) > 5)
        os.kill(made.processes["center2"].pid, signal.SIGCONT)
        missed = made.home.rounds()[-1]["round"]
        made.until(lambda: max(rounds_of("center2")) > missed)
        assert "center2 (last seen" in made.said("server")
        assert "center2 (last seen" in _line(made.said("server"), "did not answer within 5 s")

        before = len(made.said("server"))
        made.processes["center2"].kill()
        made.until(lambda: "center2 (last seen" in made.said("server")[before:])
        made.start("center2")
        killed = made.home.rounds()[-1]["round"]
        made.until(lambda: max(rounds_of("center2")) > killed + 1)
        made.processes["server"].send_signal(signal.SIGINT)
        assert made.processes["server"].wait(PATIENCE_S) == 130

        rows = made.home.rounds()
        assert [row["round"] for row in rows] == list(range(1, len(rows) + 1))
        assert rows[3]["sites"] == ["center1"]
        assert "Traceback" not in "".join(map(made.said, ("server", *SITES)))
        # What center2 sent too late is in its own log, and nowhere in the server's.
        assert 4 in _answered(made, "center2")
        server = made.home.run("stic-server", "audit", "--json")
        taken = Counter(
            (line["peer"], line["content"]["round"])
            for line in map(json.loads, server.stdout.splitlines())
            if line["kind"] == "round-report"
        )
        assert max(taken.values()) == 1
        assert ("center2", 4) not in taken
        made.check_audits()


def _line(text: str, holding: str) -> str:
    """The first line with a text."""
    return next(line for line in text.splitlines() if holding in line)


def _answered(made: Federation, site: str) -> list[int]:
    """Rounds that a site answered, by its own log."""
    audit = made.home.run("stic-client", "--site", site, "audit", "--json")
    lines = map(json.loads, audit.stdout.splitlines())
    return [line["content"]["round"] for line in lines if line["kind"] == "round-report"]
