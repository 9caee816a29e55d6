"""A site restored from a backup that is older than its last answers: what it forgets, and what its operator does."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from stic_client.participation.looks_summary import looks_in_words
from stic_client.participation.participant import Participant
from stic_core.config import FederationConfig
from stic_core.privacy.looks import HeldOutLooks
from stic_server.federation.plan import training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from support.federation_kit import InProcessSites, Recorder, participant
from support.waiting import PATIENCE_S

PAGE = Path(__file__).parents[2] / "docs" / "deploy" / "backup.md"


def _run(folder: Path, sites: InProcessSites, *, seed: int) -> RunFolder:
    federation = FederationConfig.model_validate(
        {
            "model": {"backbone": "tiny"},
            "rounds": 2,
            "seed": seed,
            "training": {"views": 1, "batch_size": 4, "local_epochs": 1},
            "runs": folder / "runs",
        }
    )
    proposal = training_of(federation, sites=sites.public_keys)
    run = RunFolder.begin(federation, proposal.plan)
    limits = RunLimits(min_sites=2, join_timeout_s=PATIENCE_S, round_timeout_s=PATIENCE_S)
    execute(proposal.plan, proposal.weights, run=run, sites=sites, limits=limits, observer=Recorder())
    return run


def test_a_ledger_that_was_set_back_lets_nothing_leave_once_its_operator_closes_it(tmp_path: Path) -> None:
    """An older copy counts too few looks. Without what docs/deploy/backup.md takes out of `policy.release`, only numbers leave.

    The site trains on; of its held-out patients nothing but their number by class is told.
    """
    sites = InProcessSites(
        {name: participant(tmp_path / name, site=name, seed=int(name[-1])) for name in ("center1", "center2")}
    )
    config = sites.participants["center1"].config
    _run(tmp_path, sites, seed=0)
    assert len([*HeldOutLooks(config.held_out)]) == 4
    shutil.rmtree(config.held_out)  # the backup is of the day before
    assert "no model was looked at" in looks_in_words(config.held_out, allowed=40)

    (sentence,) = re.findall(r"2\. Otherwise.*?`policy\.release`", PAGE.read_text(), re.DOTALL)
    taken_out = set(re.findall(r"`([a-z]+)`", sentence))
    assert taken_out < set(config.policy.release)
    policy = config.policy.model_copy(
        update={"release": tuple(kind for kind in config.policy.release if kind not in taken_out)}
    )
    sites.participants["center1"] = Participant(config.model_copy(update={"policy": policy}))
    run = _run(tmp_path, sites, seed=1)
    assert [sorted(row["sites"]) for row in run.read_rounds()] == [["center1", "center2"]] * 2
    looks = [*HeldOutLooks(config.held_out)]
    assert len(looks) == 4
    for look in looks:
        assert look.report is not None
        numbers = {name: look.report[name] for name in ("n", "classes", "class_counts")}
        assert numbers["n"] == 12
        figures = [value for name, value in look.report.items() if name not in numbers]
        figures += [value for one in look.compared.values() for value in (one["discordant"], one["auc"])]
        assert all(one.keys() == {"suppressed"} for figure in figures for one in _of_classes(figure))


def _of_classes(figure: dict) -> list[dict]:
    """A figure, or those of each class."""
    return [figure] if "suppressed" in figure else [*figure.values()]
