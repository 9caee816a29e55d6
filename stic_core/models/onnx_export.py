"""The whole model as one ONNX file: images and clinical columns in, one score per class out."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from stic_core.data.clinical import COLUMNS
from stic_core.data.ct import IMAGE_SIZE
from stic_core.errors import UsageError
from stic_core.models.saved import ModelDescription
from stic_core.models.stic import Network

OPSET = 18


class _Scores(nn.Module):
    """Softmax behind the network, as the paper's last layer."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, clinical: Tensor) -> Tensor:
        """Scores a class, n by k."""
        return self.network(images, clinical).softmax(1)


def export_onnx(network: Network, path: Path, *, description: ModelDescription) -> Path:
    """Write a model as ONNX, in float32, for any number of patients at once.

    Inputs: `images`, (n, 3, 224, 224), NC, ART, PV after the window, 0 to 1; `clinical`,
    (n, 20), the columns in the order that the file's metadata names. Output: `scores`, (n, k).

    Args:
        description: what the file says of itself.

    Raises:
        UsageError: onnx and onnxscript are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError:
        raise UsageError(
            "ONNX export needs onnx and onnxscript",
            advice="Install them: pip install 'stic-federated[onnx]'.",
        ) from None
    network = network.cpu().eval()
    network.dtype = torch.float32
    images = torch.zeros(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # torch's exporter uses parts of torch and of Python that deprecate themselves.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Scores(network),
            (images, torch.zeros(2, len(COLUMNS))),
            input_names=["images", "clinical"],
            output_names=["scores"],
            dynamic_shapes={"images": {0: "patients"}, "clinical": {0: "patients"}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # with dynamo it is one
    program.save(path, external_data=False)
    model = onnx.load(path)
    facts = {
        "classes": json.dumps(description.classes),
        "clinical_columns": json.dumps(description.clinical_columns),
        "digest": description.digest,
        "image": description.image.model_dump_json(),
        "note": "research software, not a medical device",
        "phantom": json.dumps(description.phantom),
    }
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path)
    return path
