"""What an operator approves is what leaves: each approval text against the audit log of the run that follows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stic_client.participation.participant import Participant
from stic_core.config import RELEASES, FederationConfig, PolicyConfig, SiteConfig
from stic_core.data.dataset import load_dataset
from stic_core.models.saved import read_model
from stic_core.privacy import looks
from stic_core.privacy.audit_release import AUDIT_NAME
from stic_core.privacy.looks import HeldOutLooks, Look, patients_of
from stic_core.protocol.audit_log import AuditLog
from stic_core.protocol.leaving import MASKING, NO_FIGURES, leaving
from stic_core.protocol.messages import RunPlan
from stic_core.protocol.plan_summary import described
from stic_core.tasks import TASKS
from stic_server.federation.plan import Proposal, evaluation_of, training_of
from stic_server.federation.run import execute
from stic_server.federation.run_folder import RunFolder
from stic_server.federation.sites import RunLimits
from support.federation_kit import InProcessSites, Recorder, participant, write_small_model
from support.waiting import PATIENCE_S

COUNTS = {"train": 6, "val": 6, "test": 15}
OPEN = {"plans": "any", "min_cell": 1, "min_class": 1, "held_out_models": 1000}

Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites' data, with their features once the first run has computed them."""
    folder = tmp_path_factory.mktemp("sites")
    for number, site in enumerate(("center1", "center2")):
        participant(folder / site, site=site, seed=number, counts=COUNTS)
    return folder


def _sites(
    prepared: Path,
    folder: Path,
    policy: Mapping[str, object],
    *,
    names: tuple[str, ...] = ("center1",),
) -> InProcessSites:
    """The sites with logs and ledgers of their own; the policy is center1's."""
    made = {}
    for site in names:
        config = _config(prepared, folder, site)
        changes = OPEN | (dict(policy) if site == "center1" else {})
        made[site] = Participant(
            config.model_copy(update={"policy": PolicyConfig.model_validate(changes)}), Recorder()
        )
    return InProcessSites(made)


def _config(prepared: Path, folder: Path, site: str) -> SiteConfig:
    from support.federation_kit import site_config

    config = site_config(prepared / site, site=site)
    own = {
        name: folder / site / name for name in ("models", "plans", "between_rounds", "held_out", "privacy")
    }
    return config.model_copy(update={**own, "audit": folder / site / "audit.jsonl"})


def _release_audit(config: SiteConfig) -> None:
    """The ledger as it is after `privacy-audit --release`; whether it leaves is for the policy to say."""
    dataset, task = load_dataset(config.dataset.prepared), TASKS["malignant"]
    figure = {"auc": 0.55, "ci95": (0.4, 0.7), "noticed": 0.6, "p": 0.2}
    audit = {
        "loss": figure,
        "likelihood_ratio": figure,
        "site": {"difference": 0.1, "ci95": (0, 0.2), "p": 0.2},
    }
    HeldOutLooks(config.held_out).keep(
        Look(
            at=looks.now(),
            run_id="earlier",
            plan=AUDIT_NAME,
            name=AUDIT_NAME,
            model="ab" * 32,
            classes=task.classes,
            patients=patients_of(dataset.subjects),
            audit={"model": "cd" * 32, "train": 12, "held_out": 12} | audit,
        )
    )


def _federation(folder: Path, **changes: object) -> FederationConfig:
    return FederationConfig.model_validate(
        {
            "model": {"backbone": "tiny"},
            "rounds": 2,
            "training": {"views": 1, "batch_size": 4, "local_epochs": 1},
            "runs": folder / "runs",
            **changes,
        }
    )


def _sent(
    proposal: Proposal, sites: InProcessSites, *, federation: FederationConfig
) -> tuple[RunPlan, PolicyConfig, Lines]:
    """What center1's log shows as sent in the run."""
    run = RunFolder.begin(federation, proposal.plan)
    limits = RunLimits(min_sites=1, join_timeout_s=PATIENCE_S, round_timeout_s=PATIENCE_S)
    execute(proposal.plan, proposal.weights, run=run, sites=sites, limits=limits, observer=Recorder())
    config = sites.participants["center1"].config
    lines = [line for line in AuditLog(config.audit).read() if line["direction"] == "out"]
    return proposal.plan, config.policy, lines


def _check_messages_and_weights(plan: RunPlan, policy: PolicyConfig, lines: Lines) -> None:
    """The log has what the text says, to the byte, and nothing beside it."""
    promised, text = leaving(plan, policy), dict(described(plan, policy))
    kinds = Counter(line["kind"] for line in lines)
    assert kinds.keys() - set(promised.without_figures) == promised.messages.keys()
    for kind, most in promised.messages.items():
        assert kinds[kind] <= most
        assert f"{kind}, at most {most}" in text["messages sent"]
    carrying: dict[str, Lines] = {}
    for line in lines:
        if line["tensors"]:
            carrying.setdefault(line["kind"], []).append(line)
    assert carrying.keys() == promised.weights.keys()
    rows = {"round-report": text["weights sent"], "local-report": text["own model sent too"]}
    for kind, row in rows.items():
        if kind not in carrying:
            assert row == "none"
            continue
        tensors, values, in_bytes = (
            int(number.replace(",", "")) for number in re.findall(r"([\d,]+) (?:tensors|values|bytes)", row)
        )
        assert len(carrying[kind]) == promised.weights[kind].messages
        for line in carrying[kind]:
            assert len(line["tensors"]) == tensors
            # The rest of a message is its text, as the log has it.
            assert 0 < line["bytes"] - in_bytes < 2500
        assert values == sum(spec.size for spec in plan.tensors)


def _figures(lines: Lines) -> set[str]:
    """Kinds of figures of which at least one was released."""
    found = set()
    for line in lines:
        content, kind = line["content"], line["kind"]
        if kind == "site-description":
            found |= {"privacy-audit"} if content["privacy_audit"] is not None else set()
        elif kind == "round-report":
            found |= {"training-loss"} if content["train_loss"] is not None else set()
            found |= {"validation"} if _told(content["validation"]["correct"]) else set()
            found |= {"validation"} if _told(content["validation"]["loss_sum"]) else set()
        elif kind == "local-report":
            found |= {"validation"} if content["validation_loss"] is not None else set()
        elif kind == "held-out-answer":
            report = content["report"]
            found |= {
                name for name in ("accuracy", "confusion", "histograms", "calibration") if _told(report[name])
            }
            aucs = [*report["auc"].values(), report["auc_micro"], report["auc_macro"]]
            found |= {"auc"} if any(_told(one) for one in aucs) else set()
            paired = content["paired"]
            if paired is not None and (
                _told(paired["discordant"]) or any(map(_told, paired["auc"].values()))
            ):
                found.add("comparison")
    return found


def _told(block: object) -> bool:
    return not (isinstance(block, dict) and block.keys() & {"suppressed", "not_estimable"})


@pytest.mark.parametrize("transport", ["float32", "float16", "int8"])
@pytest.mark.parametrize("local_only", [True, False])
def test_training(prepared: Path, tmp_path: Path, transport: str, local_only: bool) -> None:
    """Every transport, with and without the site's own model: tensors, values, bytes, kinds of messages and figures."""
    federation = _federation(tmp_path, transport=transport, local_only=local_only)
    sites = _sites(prepared, tmp_path, {}, names=("center1", "center2"))
    proposal = training_of(federation, sites=sites.public_keys)
    plan, policy, lines = _sent(proposal, sites, federation=federation)
    _check_messages_and_weights(plan, policy, lines)
    assert _figures(lines) == set(leaving(plan, policy).figures)


def test_masked_training(prepared: Path, tmp_path: Path) -> None:
    """With secure aggregation: masked values and two counts, keys and shares, and nothing of the bare update."""
    federation = _federation(tmp_path, secure_aggregation=True, local_only=False)
    sites = _sites(prepared, tmp_path, {}, names=("center1", "center2"))
    proposal = training_of(federation, sites=sites.public_keys)
    plan, policy, lines = _sent(proposal, sites, federation=federation)
    _check_messages_and_weights(plan, policy, lines)
    assert _figures(lines) == set(leaving(plan, policy).figures)
    text = dict(described(plan, policy))
    assert "at least 2 of 2 hospitals" in text["secure aggregation"]
    assert text["not covered by it"]
    assert {line["kind"] for line in lines} >= set(MASKING)
    plain = dict(described(plan.model_copy(update={"secure_aggregation": None}), policy))
    assert "the server sees this hospital's update" in plain["secure aggregation"]


def test_a_site_that_keeps_its_own_model(prepared: Path, tmp_path: Path) -> None:
    """The plan asks for it and the site's policy does not give it: the text is the site's, not the plan's."""
    federation = _federation(tmp_path)
    sites = _sites(prepared, tmp_path, {"local_only": False})
    proposal = training_of(federation, sites=sites.public_keys)
    plan, policy, lines = _sent(proposal, sites, federation=federation)
    assert dict(described(plan))["own model sent too"] != "none"
    assert dict(described(plan, policy))["own model sent too"] == "none"
    _check_messages_and_weights(plan, policy, lines)


def test_a_warm_start(prepared: Path, tmp_path: Path) -> None:
    """Begun with an earlier model: the text says so, and the same leaves."""
    model = write_small_model(tmp_path / "model", backbone=prepared / "center1" / "tiny.safetensors")
    federation = _federation(tmp_path, warm_start=str(model), local_only=False)
    sites = _sites(prepared, tmp_path, {})
    plan, policy, lines = _sent(
        training_of(federation, sites=sites.public_keys), sites, federation=federation
    )
    assert "of an earlier model" in dict(described(plan, policy))["first weights"]
    _check_messages_and_weights(plan, policy, lines)


def test_an_evaluation_sends_no_weights(prepared: Path, tmp_path: Path) -> None:
    """No tensor, no training figure, one answer; and the text names the model and no optimiser."""
    model = write_small_model(tmp_path / "model", backbone=prepared / "center1" / "tiny.safetensors")
    federation, sites = _federation(tmp_path), _sites(prepared, tmp_path, {})
    saved = read_model(model)
    proposal = evaluation_of(federation, saved, sites=sites.public_keys)
    plan, policy, lines = _sent(proposal, sites, federation=federation)
    text = dict(described(plan, policy))
    assert text["weights sent"] == text["own model sent too"] == "none"
    assert text["model evaluated"].startswith(saved.description.digest[:12])
    assert not text.keys() & {"optimiser", "algorithm", "first weights"}
    _check_messages_and_weights(plan, policy, lines)
    assert _figures(lines) == set(leaving(plan, policy).figures)
    assert not any(line["tensors"] for line in lines)


@pytest.mark.parametrize("release", [*((kind,) for kind in RELEASES), RELEASES, ()], ids=str)
def test_what_the_policy_releases(prepared: Path, tmp_path: Path, release: tuple[str, ...]) -> None:
    """One kind of figure, all, none: the text lists those that leave, and no other leaves."""
    _release_audit(_config(prepared, tmp_path, "center1"))
    federation, sites = _federation(tmp_path, rounds=1), _sites(prepared, tmp_path, {"release": release})
    proposal = training_of(federation, sites=sites.public_keys)
    plan, policy, lines = _sent(proposal, sites, federation=federation)
    told = dict(described(plan, policy))["figures sent"]
    found = set(release) - ({"comparison"} if release == ("comparison",) else set())  # of figures that left
    assert (
        told == f"patients by split and class; {', '.join(sorted(found, key=RELEASES.index)) or 'no other'}"
    )
    assert _figures(lines) == found
    _check_messages_and_weights(plan, policy, lines)


def test_no_kind_of_message_is_missing_from_the_text() -> None:
    """A message that is added to the protocol has to be in the text, or among those without figures."""
    from typing import get_args

    from stic_core.protocol import messages

    union = get_args(messages.Report)[0]
    kinds = {one.model_fields["kind"].default for one in get_args(union)}
    plan = training_of(_federation(Path())).plan
    pooled = plan.model_copy(update={"evaluation": "pooled"})
    named = {*leaving(replace_local(plan)).messages, *leaving(pooled).messages}
    assert named | set(NO_FIGURES) | set(MASKING) == kinds


def replace_local(plan: RunPlan) -> RunPlan:
    """With each site's own model."""
    return plan.model_copy(update={"local_only": True})
