"""The model: exact sizes, the paper's GRU against NumPy, the convolution against torch's own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from stic_core.errors import WeightsError
from stic_core.models.parameters import count_parameters, get_flat, set_flat, trainable_specs
from stic_core.models.pretrained import CHANNELS, TinyBackbone, backbone_digest, build_backbone, load_backbone
from stic_core.models.stic import Network, SpatialExtractor, TemporalEncoder, build_head, extract
from support.federation_kit import write_tiny_weights

TRAINABLE = {
    # 7 * 7 * channels * 128 + 128 (convolution), 15,456 (GRU), 52 * classes + classes (softmax layer)
    ("vgg16", 3): 3_227_007,
    ("vgg16", 2): 3_226_954,
    ("tiny", 3): 216_447,
    ("tiny", 2): 216_394,
}


@pytest.mark.parametrize(("backbone", "classes"), list(TRAINABLE))
def test_trainable_parameters(backbone: str, classes: int) -> None:
    """Each backbone and number of classes trains exactly as many parameters as the table says."""
    head = build_head(channels=CHANNELS[backbone], classes=classes, seed=0)
    assert count_parameters(head) == (TRAINABLE[backbone, classes],) * 2


def test_every_backbone_is_in_the_table() -> None:
    """A new backbone needs its line in the table."""
    assert {backbone for backbone, _ in TRAINABLE} <= set(CHANNELS)


def test_the_whole_model_with_a_frozen_backbone() -> None:
    """VGG16's 14,714,688 parameters are there and do not train."""
    backbone = build_backbone("vgg16")
    backbone.unfreeze(0)
    model = Network(backbone, build_head(channels=512, classes=3, seed=0))
    assert count_parameters(model) == (3_227_007, 3_227_007 + 14_714_688)


@pytest.mark.parametrize("activation", ["sigmoid", "hard_sigmoid"])
def test_the_gru_is_keras_with_reset_before_the_product(activation: str) -> None:
    """Against an independent NumPy implementation of Keras' GRU(reset_after=False), to 1e-6."""
    torch.manual_seed(0)
    encoder = TemporalEncoder(recurrent_activation=activation)
    torch.nn.init.normal_(encoder.bias, std=0.5)
    phases = torch.randn(5, 3, 128)
    kernel, recurrent, bias = (
        tensor.detach().double().numpy() for tensor in (encoder.kernel, encoder.recurrent, encoder.bias)
    )

    def gate(value: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-value)) if activation == "sigmoid" else np.clip(0.2 * value + 0.5, 0, 1)

    state = np.zeros((5, 32))
    for x in phases.double().numpy().transpose(1, 0, 2):
        z = gate(x @ kernel[:, :32] + state @ recurrent[:, :32] + bias[:32])
        r = gate(x @ kernel[:, 32:64] + state @ recurrent[:, 32:64] + bias[32:64])
        candidate = np.tanh(x @ kernel[:, 64:] + (r * state) @ recurrent[:, 64:] + bias[64:])
        state = z * state + (1 - z) * candidate
    np.testing.assert_allclose(encoder(phases).detach().numpy(), state, atol=1e-6)


def test_the_projection_is_the_7x7_convolution() -> None:
    """The matrix product equals torch's convolution with the same weights."""
    extractor = SpatialExtractor(8)
    features = torch.randn(4, 3, 8, 7, 7)
    convolved = functional.conv2d(
        features.flatten(0, 1), extractor.project.weight, extractor.project.bias
    ).reshape(4, 3, 128)
    torch.testing.assert_close(extractor(features), convolved, atol=1e-5, rtol=1e-5)


def test_phases_go_through_the_backbone_apart() -> None:
    """Each phase's features are those of its own image alone."""
    backbone = TinyBackbone().eval()
    images = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        together = extract(backbone, images)
        alone = backbone(images[1:, 2:])
    torch.testing.assert_close(together[1, 2], alone[0], atol=1e-5, rtol=1e-4)


def test_equal_seeds_give_equal_heads() -> None:
    """The first weights depend on the seed alone, and building them leaves torch's generator as it was."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = (get_flat(build_head(channels=64, classes=3, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_weights_go_out_and_come_back() -> None:
    """What `get_flat` gives, `set_flat` puts back, tensor by tensor."""
    head, other = (build_head(channels=64, classes=3, seed=seed) for seed in (1, 2))
    set_flat(other, get_flat(head))
    for mine, its in zip(head.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, its)
    assert sum(spec.size for spec in trainable_specs(head)) == 417_151


def test_vgg16_comes_from_torchvisions_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file there is used if its digest is the one in its name; its classifier is ignored."""
    torch.manual_seed(0)
    original = build_backbone("vgg16")
    original.unfreeze(0)
    tensors = dict(original.state_dict()) | {"classifier.0.weight": torch.zeros(2, 2)}
    torch.save(tensors, tmp_path / "any.pth")
    digest = hashlib.sha256((tmp_path / "any.pth").read_bytes()).hexdigest()[:8]
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (tmp_path / "any.pth").rename(cache / f"vgg16-{digest}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    entry = SimpleNamespace(url=f"https://example.org/vgg16-{digest}.pth")
    monkeypatch.setattr("stic_core.models.pretrained.PRETRAINED", {"vgg16": entry})
    loaded = load_backbone("vgg16")
    assert backbone_digest(loaded) == backbone_digest(original)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_missing_imagenet_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded: the message names the file, the address and the configuration key."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"fetch https://.*vgg16-.*\.pth.*backbone_weights"):
        load_backbone("vgg16")


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x04\x95"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_no_weights_file_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    """Empty, text, or a pickle's beginning: a clear error, and nothing is unpickled."""
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        load_backbone("tiny", weights=path)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    """The tiny backbone's file is no VGG16."""
    with pytest.raises(WeightsError, match="vgg16"):
        load_backbone("vgg16", weights=write_tiny_weights(tmp_path / "tiny.safetensors"))


def test_the_packaged_backbone_loads() -> None:
    """The demo's weights lie in the package, below 1 MB, and fit."""
    from stic_core.models.pretrained import TINY_WEIGHTS

    assert Path(str(TINY_WEIGHTS)).stat().st_size < 1_000_000
    assert load_backbone("tiny").channels == 32
