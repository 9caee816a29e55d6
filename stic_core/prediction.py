"""A saved model made whole, and its scores for patients whose images are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from stic_core.config import TrainingConfig
from stic_core.data.clinical import COLUMNS
from stic_core.data.ct import IMAGE_SIZE
from stic_core.errors import DataError
from stic_core.models.devices import Precision, pick_device
from stic_core.models.saved import ModelDescription, SavedModel
from stic_core.models.stic import Network
from stic_core.training import trainer
from stic_core.training.batches import ImageBatches
from stic_core.training.setup import ComputeConfig, restore


@dataclass(frozen=True, slots=True, eq=False)
class RestoredModel:
    """A model that is ready to score patients.

    Args:
        description: its task, classes, digest, and how images must be prepared for it.
        network: from images and clinical columns to logits, in evaluation mode.
        device: where it computes.
    """

    description: ModelDescription
    network: Network
    device: torch.device


def restore_model(
    saved: SavedModel,
    *,
    device: str = "auto",
    precision: Precision = "auto",
    backbone_weights: Path | None = None,
) -> RestoredModel:
    """Put a saved model and its frozen backbone together.

    A model's folder holds only what was trained. The backbone's weights come from this machine
    and are compared with the digest that the model names.

    Args:
        saved: from `read_model`.
        device: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:1`.
        precision: of the backbone; `auto` is bfloat16 where the hardware multiplies it.
        backbone_weights: the backbone's file; None looks in torchvision's cache. The `tiny`
            backbone comes with the package.

    Raises:
        WeightsError: the backbone's file is missing, or is not the one that the model was trained on.
        DataError: the model's batch-norm statistics stayed at the sites.
    """
    where = pick_device(device)
    compute = ComputeConfig(where, precision=precision, weights=backbone_weights)
    return RestoredModel(saved.description, restore(saved, compute=compute), where)


def predict(model: RestoredModel, images: npt.ArrayLike, clinical: npt.ArrayLike) -> pd.DataFrame:
    """Class probabilities of each patient.

    Args:
        model: from `restore_model`.
        images: (n, 224, 224, 3) uint8, 0 to 255 after the CT window; the last axis is
            non-contrast, arterial, portal venous. They must be prepared as
            `model.description.image` says. `SiteDataset.images` will do, and is read in batches.
        clinical: (n, 20), 0 or 1, in the order of `stic_core.data.clinical.COLUMNS`;
            `stic_core.data.clinical.encode` makes a row from a patient's values as texts.

    Returns:
        n rows in the order given, a column for each class; each row adds up to 1.

    Raises:
        DataError: images or clinical columns of another shape or kind.
    """
    found = torch.from_numpy(logits(model, images, clinical)).softmax(1).numpy()
    return pd.DataFrame(found, columns=list(model.description.classes))


def logits(model: RestoredModel, images: npt.ArrayLike, clinical: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """What `predict` takes the softmax of, (n, k); `site_report` takes them as they are.

    Args:
        model, images, clinical: as for `predict`.

    Raises:
        DataError: images or clinical columns of another shape or kind.
    """
    pixels, columns = np.asarray(images), np.asarray(clinical)
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise DataError(
            "images do not fit the model",
            got=f"{pixels.dtype} {pixels.shape}",
            expected=f"uint8 (n, {IMAGE_SIZE}, {IMAGE_SIZE}, 3)",
        )
    if columns.shape != (len(pixels), len(COLUMNS)) or not np.isin(columns, (0, 1)).all():
        raise DataError(
            "clinical columns do not fit the model",
            got=f"shape {columns.shape}",
            expected=f"({len(pixels)}, {len(COLUMNS)}), each 0 or 1",
        )
    patients = ImageBatches(
        pixels,
        rows=np.arange(len(pixels)),
        clinical=columns.astype(np.float32),
        labels=np.zeros(len(pixels), dtype=np.int64),  # nobody looks at them: nothing is trained
        augmentation=TrainingConfig(),
    )
    return trainer.predict(model.network, patients, device=model.device)
