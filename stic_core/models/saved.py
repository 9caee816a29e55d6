"""A model's folder as a run leaves it: `model.safetensors` and `model.json`, written, read, checked."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from stic_core.config import ImageConfig, ModelConfig
from stic_core.data.clinical import COLUMNS
from stic_core.errors import DataError
from stic_core.system.files import put_in_place, write_atomically
from stic_core.tasks import Task
from stic_core.tensors.flat import FlatArray, TensorSpec, digest, flatten, unflatten

TENSORS_FILE, DESCRIPTION_FILE = "model.safetensors", "model.json"
_NEXT_FILE = "model-next.safetensors"


class ModelDescription(BaseModel):
    """`model.json`, as far as the model is rebuilt from it; the rest is for people.

    Args:
        digest: of the tensors, as a run's record names it.
        task: the task's name.
        architecture: the model's configuration.
        tensors: what trained, in the order of the flat array.
        backbone_digest: of what is frozen; None where nobody said.
        phantom: it learned from phantoms.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    digest: str
    run_id: str = ""
    task: str
    classes: tuple[str, ...]
    architecture: ModelConfig
    image: ImageConfig
    clinical_columns: tuple[str, ...]
    tensors: tuple[TensorSpec, ...]
    backbone_digest: str | None = None
    phantom: bool | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SavedModel:
    """A model's folder, read.

    Args:
        description: what the weights are.
        weights: the tensors that trained, one after the other.
    """

    description: ModelDescription
    weights: FlatArray


def write_model(
    folder: Path,
    weights: FlatArray,
    *,
    tensors: tuple[TensorSpec, ...],
    task: Task,
    model: ModelConfig,
    image: ImageConfig,
    **facts: object,
) -> ModelDescription:
    """Write a model's folder; a kill anywhere leaves the model that was there, or this one.

    Two files cannot be replaced in one step. The new weights are laid beside the old ones first;
    the description decides, by its digest, which of the two it means; then they take their name.

    Args:
        facts: what else `model.json` says.
    """
    description = ModelDescription(
        digest=digest(weights, tensors),
        task=task.name,
        classes=task.classes,
        architecture=model,
        image=image,
        clinical_columns=COLUMNS,
        tensors=tensors,
    )
    stated = description.model_dump(mode="json", exclude={"backbone_digest", "phantom"})
    content = {"schema": 1} | stated | facts
    write_atomically(folder / _NEXT_FILE, save(unflatten(weights, tensors)))
    write_atomically(folder / DESCRIPTION_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")
    put_in_place(folder / _NEXT_FILE, folder / TENSORS_FILE)
    for left in folder.glob(".*.partial"):  # by a process that was killed
        left.unlink()
    return ModelDescription.model_validate(content)


def read_model(folder: Path) -> SavedModel:
    """Read a model's folder.

    Raises:
        DataError: no model, a torn one, or one of other clinical columns than this version's.
    """
    try:
        text = (folder / DESCRIPTION_FILE).read_text(encoding="utf-8")
        description = ModelDescription.model_validate_json(text)
        if description.clinical_columns != COLUMNS:
            raise DataError(
                "the model's clinical columns differ from those of this version of stic-federated"
            )
        if (folder / _NEXT_FILE).exists():  # a writer was killed between the description and the last step
            with suppress(DataError):
                return SavedModel(description, _weights(folder / _NEXT_FILE, description))
        return SavedModel(description, _weights(folder / TENSORS_FILE, description))
    except FileNotFoundError as error:
        raise DataError(
            f"{folder} is not a model folder",
            got=f"no {Path(str(error.filename or TENSORS_FILE)).name}",
            expected=f"{TENSORS_FILE} and {DESCRIPTION_FILE}",
            advice="Give the model/ folder of a run.",
        ) from None
    except (ValidationError, SafetensorError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder} contains no readable model", got=type(error).__name__) from None


def _weights(path: Path, description: ModelDescription) -> FlatArray:
    arrays = load_file(path)
    wanted = {spec.name: spec.shape for spec in description.tensors}
    if {name: array.shape for name, array in arrays.items()} != wanted:
        raise DataError(
            f"{TENSORS_FILE} does not hold the tensors that {DESCRIPTION_FILE} lists", got=path.parent
        )
    weights = flatten({spec.name: arrays[spec.name] for spec in description.tensors})
    if digest(weights, description.tensors) != description.digest:
        raise DataError(
            "the model's weights do not match the digest in its description",
            got=digest(weights, description.tensors)[:12],
            expected=description.digest[:12],
            advice="Copy the folder again.",
        )
    return weights


def warm_start(
    saved: SavedModel, *, initial: FlatArray, tensors: tuple[TensorSpec, ...], model: ModelConfig
) -> tuple[FlatArray, tuple[str, ...]]:
    """First weights from a saved model; tensors that do not fit, such as for other classes, stay fresh.

    Args:
        initial: fresh weights.
        tensors: of the new model.
        model: its configuration.

    Returns:
        The weights, and the names of the tensors that stayed fresh.

    Raises:
        DataError: a model of another architecture or backbone.
    """
    theirs = saved.description.architecture
    if (theirs.architecture, theirs.backbone) != (model.architecture, model.backbone):
        raise DataError(
            "the warm_start model does not fit this federation",
            got=f"{theirs.architecture} on {theirs.backbone}",
            expected=f"{model.architecture} on {model.backbone}",
        )
    old = unflatten(saved.weights, saved.description.tensors)
    fresh: list[str] = []
    out: dict[str, np.ndarray] = {}
    for name, array in unflatten(initial, tensors).items():
        # A head keeps its names under `head.` where the backbone trains with it.
        found = next(
            (old[key] for key in (name, f"head.{name}", name.removeprefix("head.")) if key in old), None
        )
        if found is None or found.shape != array.shape:
            fresh.append(name)
            found = array
        out[name] = found
    return flatten(out), tuple(fresh)
