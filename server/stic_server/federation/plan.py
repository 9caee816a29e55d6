"""From a configuration to a plan and its first weights: what the sites are asked to agree to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from stic_core.config import FederationConfig
from stic_core.errors import UsageError
from stic_core.evaluation.run_facts import ModelOrigin, origin_of
from stic_core.models.parameters import get_flat, trainable_specs
from stic_core.models.saved import SavedModel, read_model, warm_start
from stic_core.models.stic import initial_module
from stic_core.protocol.compression import downlink, rounded
from stic_core.protocol.messages import RunPlan
from stic_core.tasks import TASKS, Task
from stic_core.tensors.flat import FlatArray, digest
from stic_server.strategies import algorithm_of


@dataclass(frozen=True, slots=True)
class Proposal:
    """A plan with the weights that it begins with.

    Args:
        note: what an operator should know of the weights; "" where there is nothing.
        origin: of a model that is evaluated; None where one is trained, or where nobody gave its folder.
    """

    plan: RunPlan
    weights: FlatArray
    note: str = ""
    origin: ModelOrigin | None = None


def propose(
    federation: FederationConfig,
    *,
    evaluate: Path | None = None,
    sites: Mapping[str, str] = MappingProxyType({}),
) -> Proposal:
    """What a federation is to do: train, or evaluate a model and train nothing.

    Args:
        evaluate: folder of the model that is evaluated; None trains.
        sites: public keys of the admitted sites, by name.

    Raises:
        WeightsError, DataError, UsageError: see `training_of` and `evaluation_of`.
    """
    if evaluate is None:
        return training_of(federation, sites=sites)
    proposal = evaluation_of(federation, read_model(evaluate), sites=sites)
    return replace(proposal, origin=origin_of(evaluate))


def training_of(federation: FederationConfig, *, sites: Mapping[str, str] = MappingProxyType({})) -> Proposal:
    """A run that trains; its plan names the first weights as they travel.

    Raises:
        UsageError: secure aggregation with an algorithm that needs each site's own update.
        WeightsError: a backbone that trains and whose file is missing.
        DataError: a warm start from something else than a model that fits.
    """
    if federation.secure_aggregation is not None and algorithm_of(federation.algorithm).from_mean is None:
        raise UsageError(
            f"algorithm {federation.algorithm.name} needs each site's own update",
            expected="one that works on their sum, with secure_aggregation",
            advice="Choose algorithm fedavg, or leave secure_aggregation out.",
        )
    module = initial_module(
        federation.model,
        classes=len(federation.task.classes),
        seed=federation.seed,
        weights=federation.backbone_weights.get(federation.model.backbone),
    )
    tensors, initial, note = trainable_specs(module), get_flat(module), ""
    if federation.warm_start is not None:
        initial, fresh = warm_start(
            read_model(federation.warm_start), initial=initial, tensors=tensors, model=federation.model
        )
        note = f"warm start from {federation.warm_start}; fresh: {', '.join(fresh) or 'nothing'}"
    initial = rounded(initial, tensors, transport=downlink(federation.transport))
    plan = RunPlan.of(federation, tensors, sites=sites, initial=digest(initial, tensors))
    return Proposal(plan, initial, note)


def evaluation_of(
    federation: FederationConfig, saved: SavedModel, *, sites: Mapping[str, str] = MappingProxyType({})
) -> Proposal:
    """A run that trains nothing and evaluates a model on each site's held-out patients.

    Raises:
        UsageError: a model of a task that neither this version nor the configuration knows.
    """
    about = saved.description
    plan = RunPlan.of(
        federation.model_copy(
            update={"task": _task_of(federation, saved), "model": about.architecture, "image": about.image}
        ),
        about.tensors,
        sites=sites,
    )
    return Proposal(
        plan.model_copy(
            update={
                "rounds": 0,
                "evaluates": about.digest,
                "local_only": False,
                "transport": "float32",
                "secure_aggregation": None,
                "evaluation": "per-site",
                "warm_start": False,
            }
        ),
        saved.weights,
    )


def _task_of(federation: FederationConfig, saved: SavedModel) -> Task:
    about = saved.description
    for task in (federation.task, *TASKS.values()):
        if (task.name, task.classes) == (about.task, about.classes):
            return task
    raise UsageError(
        "the model's task is not known here",
        got=f"{about.task}: {', '.join(about.classes)}",
        expected="a task of this version, or the one in federation.yaml",
        advice="Define the task in federation.yaml as it was when the model was trained.",
    )
