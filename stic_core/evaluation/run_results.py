"""A run's folder, opened for readers who compute further: its figures as tidy pandas DataFrames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from stic_core.errors import UsageError
from stic_core.evaluation import run_frames
from stic_core.evaluation.document import Evaluation, read_evaluation
from stic_core.evaluation.run_facts import facts_of
from stic_core.evaluation.run_files import read_record, read_rounds
from stic_core.evaluation.run_frames import HELD_OUT, Json


@dataclass(frozen=True, eq=False)
class Run:
    """What a run left behind; its frames are made when they are first asked for.

    A frame has a row for each figure. A figure that a hospital suppressed, or that the data cannot
    give, is NaN (a count `<NA>`) with the reason beside it; it is never 0 and its row is never missing.

    Args:
        path: the run's folder.
        record: `record.json`: configuration, versions, seed, sites and how it ended.
        round_rows: lines of `rounds.jsonl`.
        evaluation: `evaluation.json`, typed; None where the run was not evaluated.
    """

    path: Path
    record: Mapping[str, Json]
    round_rows: tuple[Mapping[str, Json], ...]
    evaluation: Evaluation | None

    @property
    def run_id(self) -> str:
        """Names the run, in its record and in its model."""
        return str(self.record["run_id"])

    @property
    def sites(self) -> tuple[str, ...]:
        """Who trained or evaluated, in the order of their names."""
        evaluated = self.evaluation.hospitals if self.evaluation is not None else ()
        return tuple(facts_of(self.record, rounds=self.round_rows, evaluated=evaluated).sites)

    @cached_property
    def held_out(self) -> pd.DataFrame:
        """Every model's figures on each held-out set and on all of them together (`pooled`).

        Columns: `model`, `held_out_set`, `n` (patients), `figure` (`accuracy`, `sensitivity`,
        `specificity`, `auc`, `auc_macro`, `auc_micro`, `auc_macro_interpolated`), `class` (empty
        for a figure of all classes), `value`, `lower` and `upper` (95 %), `interval` (`clopper-pearson`,
        `logit` or `newcombe`), `standard_error`, `reason`.
        """
        return run_frames.frame(run_frames.held_out_rows(_evaluated(self), sites=self.sites), HELD_OUT)

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """The federated model against each other one, on the same patients.

        Columns: `other_model`, `held_out_set`, `n`, `figure` (`accuracy`, `auc`), `class`,
        `difference` (federated minus other), `lower` and `upper` (95 %), `only_federated_right`,
        `only_other_right` (patients, for accuracy), `test` (`mcnemar`, `exact-mcnemar`, `delong`), `p` (not corrected
        for the number of tests), `reason`.
        """
        return run_frames.frame(
            run_frames.comparison_rows(_evaluated(self), sites=self.sites), run_frames.COMPARISON
        )

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """How far every model's probabilities can be taken at their word.

        Columns: `model`, `held_out_set`, `n` (patients), `figure` (`brier`, `log_loss`, `ece`; for each
        class also `slope` and `intercept` of the recalibration), `class` (empty for a figure of all
        classes), `value`, `standard_error`, `reason`.
        """
        return run_frames.frame(
            run_frames.calibration_rows(_evaluated(self), sites=self.sites), run_frames.CALIBRATION
        )

    @cached_property
    def roc(self) -> pd.DataFrame:
        """Points of every model's ROC curves, each class against the others.

        Columns: `model`, `held_out_set`, `class`, `false_positive_rate`, `true_positive_rate`,
        `reason`. A curve that is not there is one row of NaN with the reason.
        """
        return run_frames.frame(run_frames.roc_rows(_evaluated(self), sites=self.sites), run_frames.ROC)

    @cached_property
    def rounds(self) -> pd.DataFrame:
        """Training, round by round: a row for each site, and one for all together (`pooled`).

        Columns: `round`, `site`, `took_part`, `train_loss`, `validation_loss`,
        `validation_accuracy`, `validation_n`, `update_norm`, `bytes_down` (to the site), `bytes_up`,
        `reason`. Training loss and update norm are a site's alone: in pooled rows they are NaN.
        """
        return run_frames.frame(run_frames.round_rows(self.round_rows, sites=self.sites), run_frames.ROUNDS)

    @property
    def held_out_fingerprints(self) -> dict[str, str]:
        """By site that was evaluated, which held-out patients those were, as a hash."""
        facts = self.record["sites"]
        return {site: facts.get(site, {}).get("test_fingerprint", "") for site in _evaluated(self).sites}


def load_run(path: Path | str) -> Run:
    """Open a run's folder.

    Args:
        path: `runs/<run-id>`, of a federation or of one seed of a simulation.

    Raises:
        UsageError: the folder contains no run, or a file of it was altered. A frame of figures raises
            it too where the run was not evaluated.
    """
    folder = Path(path)
    record = read_record(folder)
    evaluation = folder / "evaluation.json"
    return Run(
        folder,
        record,
        read_rounds(folder),
        read_evaluation(evaluation) if evaluation.exists() else None,
    )


def compare_runs(*runs: Run | Path | str) -> pd.DataFrame:
    """The held-out figures of several runs on the same patients, one under the other.

    There is no test between two runs: that takes both models' scores of the same patient, which no
    hospital releases. Where models must be compared in pairs, let one federation evaluate both.

    Args:
        runs: two or more, opened or as folders.

    Returns:
        `Run.held_out` of each, with the run's id in a first column `run` (its folder where two
        runs have the same id).

    Raises:
        UsageError: fewer than two runs, one that cannot be read or was not evaluated, or runs of
            other tasks or other held-out patients.
    """
    found = [run if isinstance(run, Run) else load_run(run) for run in runs]
    names = names_of(found)
    check_comparable(found)
    frames = [run.held_out.assign(run=name) for name, run in zip(names, found, strict=True)]
    return pd.concat(frames, ignore_index=True).reindex(columns=["run", *HELD_OUT])


def names_of(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its id, or its folder where an id is there twice."""
    ids = [run.run_id for run in runs]
    return [run.run_id if ids.count(run.run_id) == 1 else str(run.path) for run in runs]


def check_comparable(runs: Sequence[Run]) -> None:
    """Check that runs tell the same classes apart in the same held-out patients.

    Raises:
        UsageError: see `compare_runs`.
    """
    if len(runs) < 2:
        raise UsageError("too few runs to compare", got=len(runs), expected="two or more")
    first = runs[0]
    expected, classes = first.held_out_fingerprints, _evaluated(first).classes
    for run in runs[1:]:
        found, names = run.held_out_fingerprints, _evaluated(run).classes
        if names != classes:
            raise UsageError(
                f"{run.path} and {first.path} are not comparable: their classes differ",
                got=", ".join(names),
                expected=", ".join(classes),
            )
        # A record without a fingerprint says nothing of who was held out, so it agrees with none.
        same = {site for site, value in found.items() if value and value == expected.get(site)}
        if other := sorted({*found, *expected} - same):
            raise UsageError(
                f"{run.path} and {first.path} are not comparable: their held-out patients differ",
                got=f"differences at {', '.join(other)}",
                advice="Compare runs that the same sites evaluated on the same prepared data.",
            )


def _evaluated(run: Run) -> Evaluation:
    if run.evaluation is None:
        raise UsageError(
            f"{run.path} has no evaluation",
            got=f"status: {run.record['status']}",
            advice="Start the server again: it resumes the run and evaluates it at the end.",
        )
    return run.evaluation
