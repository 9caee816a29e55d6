"""ONNX files give our scores under onnxruntime; a saved model comes back whole, or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from stic_core.config import ImageConfig, ModelConfig
from stic_core.errors import DataError, UsageError, WeightsError
from stic_core.models.onnx_export import export_onnx
from stic_core.models.parameters import get_flat, trainable_specs
from stic_core.models.saved import read_model, warm_start, write_model
from stic_core.models.stic import Network, network_of
from stic_core.tasks import TASKS
from stic_core.training.setup import ComputeConfig, restore
from stic_server.cli.app import app
from support.federation_kit import write_tiny_weights

CPU = torch.device("cpu")
TASK = TASKS["malignant"]


def _saved(folder: Path, **changes: object) -> tuple[Network, Path]:
    weights = write_tiny_weights(folder / "tiny.safetensors")
    config = ModelConfig.model_validate({"backbone": "tiny"} | changes)
    network = network_of(config, classes=3, seed=1, weights=weights).eval()
    write_model(
        folder / "model",
        get_flat(network.trained),
        tensors=trainable_specs(network.trained),
        task=TASK,
        model=config,
        image=ImageConfig(crop_mm=160),
    )
    return network, weights


def _inputs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(count)
    images = torch.from_numpy(rng.random((count, 3, 224, 224), dtype=np.float32))
    return images, torch.from_numpy((rng.random((count, 20)) < 0.3).astype(np.float32))


@pytest.mark.parametrize(
    "changes",
    [{}, {"architecture": "naive-joint"}, {"architecture": "naive-rgb", "trainable_blocks": "all"}],
    ids=["stic", "joint", "rgb"],
)
def test_onnx_gives_our_scores(tmp_path: Path, changes: dict) -> None:
    """Within 1e-4 under onnxruntime, for another number of patients than it was exported with."""
    network, _ = _saved(tmp_path, **changes)
    description = read_model(tmp_path / "model").description
    path = export_onnx(network, tmp_path / "model.onnx", description=description)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["HCC", "ICC", "META"]
    for count in (1, 5):
        images, clinical = _inputs(count)
        with torch.inference_mode():
            expected = network(images, clinical).softmax(1).numpy()
        names = [node.name for node in session.get_inputs()]
        feed = {"images": images.numpy(), "clinical": clinical.numpy()}
        (found,) = session.run(["scores"], {name: feed[name] for name in names})
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    """The same scores as before it was saved, with blocks of the backbone that trained."""
    network, weights = _saved(tmp_path, trainable_blocks=2)
    again = restore(read_model(tmp_path / "model"), compute=ComputeConfig(CPU, weights=weights))
    images, clinical = _inputs(2)
    with torch.inference_mode():
        torch.testing.assert_close(again(images, clinical), network(images, clinical), atol=1e-5, rtol=1e-5)


def test_a_model_on_another_backbone_is_refused(tmp_path: Path) -> None:
    """The frozen weights on this machine must be those that the head was trained on."""
    _saved(tmp_path)
    path = tmp_path / "model" / "model.json"
    content = json.loads(path.read_text()) | {"backbone_digest": "0" * 64}
    path.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match="expected 000000000000"):
        restore(
            read_model(tmp_path / "model"), compute=ComputeConfig(CPU, weights=tmp_path / "tiny.safetensors")
        )


def test_a_model_without_statistics_is_refused(tmp_path: Path) -> None:
    """With `local` they stayed at the sites: scores without them would mean nothing."""
    _, weights = _saved(tmp_path, trainable_blocks="all", batch_norm="local")
    with pytest.raises(DataError, match="no batch-norm statistics"):
        restore(read_model(tmp_path / "model"), compute=ComputeConfig(CPU, weights=weights))


def test_the_command_exports(tmp_path: Path) -> None:
    """Beside the model, and its path on stdout; without a format it says which there are."""
    _, weights = _saved(tmp_path)
    arguments = ["export", str(tmp_path), "--backbone-weights", str(weights)]
    with pytest.raises(UsageError, match="Add --onnx"):
        CliRunner().invoke(app, arguments, catch_exceptions=False, standalone_mode=False)
    result = CliRunner().invoke(app, [*arguments, "--onnx"], catch_exceptions=False, standalone_mode=False)
    assert result.stdout.strip() == str(tmp_path / "model" / "model.onnx")
    assert (tmp_path / "model" / "model.onnx").stat().st_size > 1_000_000


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    """A changed value, a lost tensor, no folder: each says what is wrong."""
    _saved(tmp_path)
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"temporal_encoder.bias": tensors["temporal_encoder.bias"] + 1}, path)
    with pytest.raises(DataError, match="do not match the digest"):
        read_model(tmp_path / "model")
    del tensors["temporal_encoder.bias"]
    save_file(tensors, path)
    with pytest.raises(DataError, match="does not hold the tensors"):
        read_model(tmp_path / "model")
    with pytest.raises(DataError, match="not a model folder"):
        read_model(tmp_path / "elsewhere")


def test_a_warm_start_takes_what_fits(tmp_path: Path) -> None:
    """Three classes to two: all but the softmax layer; head to network: its names are found again."""
    _, weights = _saved(tmp_path)
    saved = read_model(tmp_path / "model")
    for config in (ModelConfig(backbone="tiny"), ModelConfig(backbone="tiny", trainable_blocks=1)):
        module = network_of(config, classes=2, seed=9, weights=weights).trained
        specs = trainable_specs(module)
        found, fresh = warm_start(saved, initial=get_flat(module), tensors=specs, model=config)
        assert found.shape == get_flat(module).shape
        assert {name.removeprefix("head.") for name in fresh if "backbone" not in name} == {
            "classifier.output.weight",
            "classifier.output.bias",
        }
    with pytest.raises(DataError, match="expected stic on resnet18"):
        warm_start(saved, initial=get_flat(module), tensors=specs, model=ModelConfig(backbone="resnet18"))
