"""Backbones and heads: exact sizes of every variant, the folded first layer, freezing, batch-norm."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision import models

from stic_core.config import Architecture, BackboneName, ModelConfig
from stic_core.errors import ConfigError, WeightsError
from stic_core.models.backbones import IMAGENET_MEAN, IMAGENET_STD, SHAPES, GreyFoldedConv2d, TinyBackbone
from stic_core.models.parameters import count_parameters, get_flat, set_flat, trainable_specs
from stic_core.models.pretrained import PRETRAINED, backbone_digest, build_backbone, load_backbone
from stic_core.models.stic import Network, extract, head_of, initial_module, network_of
from stic_core.tasks import TASKS
from support.federation_kit import write_tiny_weights

HEADS = {
    # parameters for two classes (HCC/ICC, benign/malignant) and for three; all of them train
    ("vgg16", "stic"): (3_226_954, 3_227_007),
    ("vgg16", "naive-joint"): (12_915_466, 12_915_519),
    ("vgg16", "naive-rgb"): (12_915_426, 12_915_459),
    ("resnet18", "stic"): (3_226_954, 3_227_007),
    ("resnet18", "naive-joint"): (12_915_466, 12_915_519),
    ("resnet18", "naive-rgb"): (12_915_426, 12_915_459),
    ("resnet50", "stic"): (12_860_746, 12_860_799),
    ("resnet50", "naive-joint"): (51_450_634, 51_450_687),
    ("resnet50", "naive-rgb"): (51_450_594, 51_450_627),
    ("densenet121", "stic"): (6_438_218, 6_438_271),
    ("densenet121", "naive-joint"): (25_760_522, 25_760_575),
    ("densenet121", "naive-rgb"): (25_760_482, 25_760_515),
    ("mobilenet_v3_small", "stic"): (3_628_362, 3_628_415),
    ("mobilenet_v3_small", "naive-joint"): (14_521_098, 14_521_151),
    ("mobilenet_v3_small", "naive-rgb"): (14_521_058, 14_521_091),
    ("mobilenet_v3_large", "stic"): (6_036_810, 6_036_863),
    ("mobilenet_v3_large", "naive-joint"): (24_154_890, 24_154_943),
    ("mobilenet_v3_large", "naive-rgb"): (24_154_850, 24_154_883),
    ("efficientnet_b0", "stic"): (8_043_850, 8_043_903),
    ("efficientnet_b0", "naive-joint"): (32_183_050, 32_183_103),
    ("efficientnet_b0", "naive-rgb"): (32_183_010, 32_183_043),
    ("inception_v3", "stic"): (16_792_906, 16_792_959),
    ("inception_v3", "naive-joint"): (67_179_274, 67_179_327),
    ("inception_v3", "naive-rgb"): (67_179_234, 67_179_267),
    ("convnext_tiny", "stic"): (4_832_586, 4_832_639),
    ("convnext_tiny", "naive-joint"): (19_337_994, 19_338_047),
    ("convnext_tiny", "naive-rgb"): (19_337_954, 19_337_987),
    ("tiny", "stic"): (216_394, 216_447),
    ("tiny", "naive-joint"): (873_226, 873_279),
    ("tiny", "naive-rgb"): (873_186, 873_219),
}

BACKBONES = {
    # parameters that train with the last 0, 1, 2, ... blocks; the last figure is all there are,
    # and equals torchvision's published count without the classifier
    "vgg16": (0, 7_079_424, 12_979_200, 14_454_528, 14_675_968, 14_714_688),
    "resnet18": (0, 8_393_728, 10_493_440, 11_019_008, 11_166_976, 11_176_512),
    "resnet50": (0, 14_964_736, 22_063_104, 23_282_688, 23_498_496, 23_508_032),
    "densenet121": (0, 2_160_128, 5_524_224, 6_576_000, 6_944_320, 6_953_856),
    "mobilenet_v3_small": (
        *(0, 56_448, 350_544, 644_640, 736_488, 766_288, 788_256, 845_520, 902_784, 916_520),
        *(921_936, 925_800, 926_544, 927_008),
    ),
    "mobilenet_v3_large": (
        *(0, 155_520, 952_880, 1_750_240, 2_179_464, 2_565_584, 2_780_008, 2_812_000, 2_843_992),
        *(2_878_752, 2_910_832, 2_931_824, 2_952_816, 2_963_144, 2_967_584, 2_971_024, 2_971_488),
        2_971_952,
    ),
    "efficientnet_b0": (
        *(0, 412_160, 1_129_392, 3_155_740, 3_698_888, 3_941_818, 3_988_458, 4_005_172),
        *(4_006_620, 4_007_548),
    ),
    "inception_v3": (
        *(0, 6_076_800, 11_121_408, 12_819_712, 14_961_664, 16_652_672, 18_343_680, 19_641_088),
        *(20_794_368, 21_079_520, 21_356_992, 21_612_896, 21_785_568),
    ),
    "convnext_tiny": (0, 15_470_592, 26_583_552, 27_575_808, 27_818_592),
    "tiny": (0, 27_712, 110_848, 193_984, 249_472, 286_464, 305_024, 309_696, 310_512),
}

COLOURED_TINY = BACKBONES["tiny"][-1] + 2 * 16 * 7 * 7
"""The naive models' tiny backbone has a first layer for three channels."""


def test_no_variant_escapes_the_tables() -> None:
    """Every backbone, architecture and number of blocks that a configuration can name has its figure."""
    names, architectures = get_args(BackboneName), get_args(Architecture)
    assert set(HEADS) == {(name, architecture) for name in names for architecture in architectures}
    assert set(BACKBONES) == set(SHAPES) == set(names)
    assert {name: len(counts) - 1 for name, counts in BACKBONES.items()} == {
        name: shape.blocks for name, shape in SHAPES.items()
    }
    assert set(PRETRAINED) == set(names) - {"tiny"}


@pytest.mark.parametrize(("backbone", "architecture"), list(HEADS))
@pytest.mark.parametrize("task", list(TASKS))
def test_parameters_of_every_head(backbone: str, architecture: str, task: str) -> None:
    """For each of the paper's tasks exactly as many as the table says, and all of them train."""
    classes = len(TASKS[task].classes)
    with torch.device("meta"):
        config = ModelConfig(backbone=backbone, architecture=architecture)
        head = head_of(config, classes=classes, seed=0)
    assert count_parameters(head) == (HEADS[backbone, architecture][classes - 2],) * 2


@pytest.mark.parametrize("name", list(BACKBONES))
def test_parameters_of_every_backbone(name: str) -> None:
    """Trainable and total, with each number of blocks unfrozen."""
    with torch.device("meta"):
        backbone = build_backbone(name)
    for blocks, trains in enumerate(BACKBONES[name]):
        backbone.unfreeze(blocks)
        assert count_parameters(backbone) == (trains, BACKBONES[name][-1])
    backbone.unfreeze("all")
    assert count_parameters(backbone)[0] == BACKBONES[name][-1]
    with pytest.raises(ConfigError, match="trainable_blocks"):
        backbone.unfreeze(len(BACKBONES[name]))


def test_the_coloured_tiny_backbone_is_larger() -> None:
    """Its first layer has three channels."""
    assert count_parameters(build_backbone("tiny", colour=True))[1] == COLOURED_TINY


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("colour", [False, True])
def test_the_feature_maps_have_the_shape_of_the_table(name: str, colour: bool) -> None:
    """Also where the grid is not 7, or the input is resized first; phases stay apart or become colours."""
    with torch.device("meta"):
        backbone = build_backbone(name, colour=colour).eval()
        maps = extract(backbone, torch.rand(2, 3, 224, 224), colour=colour)
    shape = SHAPES[name]
    assert maps.shape == (2, 1 if colour else 3, shape.channels, shape.grid, shape.grid)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("resnet18", lambda: nn.Sequential(*list(models.resnet18().children())[:-2])),
        ("densenet121", lambda: nn.Sequential(models.densenet121().features, nn.ReLU())),
        ("mobilenet_v3_small", lambda: models.mobilenet_v3_small().features),
        ("efficientnet_b0", lambda: models.efficientnet_b0().features),
    ],
)
def test_a_backbone_is_torchvisions(name: str, whole: object) -> None:
    """With torchvision's weights it gives torchvision's feature map."""
    theirs, ours = whole().eval(), build_backbone(name).eval()
    tensors = list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), atol=1e-5, rtol=1e-4)


def test_inception_is_torchvisions_at_299() -> None:
    """The image is resized, and the map is what torchvision's own forward pools."""
    theirs = models.inception_v3(aux_logits=False, transform_input=False, init_weights=False).eval()
    ours = build_backbone("inception_v3").eval()
    ours.load_state_dict({key: theirs.state_dict()[key] for key in ours.state_dict()})
    seen: list[torch.Tensor] = []
    theirs.avgpool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        theirs(functional.interpolate(image, (299, 299), mode="bilinear", align_corners=False))
        torch.testing.assert_close(ours(image), seen[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("normalise", ["none", "imagenet"])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (7, 2, 3), (4, 4, 0), (3, 2, 0)])
def test_folding_grey_is_exact(normalise: str, kernel: int, stride: int, padding: int) -> None:
    """One folded channel equals three equal ones, border included, in value and in gradient."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, kernel, stride, padding).double()
    grey = torch.rand(2, 1, 19, 23, dtype=torch.float64)
    colour = grey.expand(-1, 3, -1, -1)
    if normalise == "imagenet":
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        colour = (colour - mean.double()) / std.double()
    expected = conv(colour)
    expected.square().sum().backward()
    gradient = conv.weight.grad.clone()
    conv.weight.grad = None
    folded = GreyFoldedConv2d.of(conv, normalise=normalise).double()
    found = folded(grey)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(folded.weight.grad, gradient, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normalise", ["none", "imagenet"])
def test_a_grey_phase_gives_what_three_equal_channels_give(normalise: str) -> None:
    """Through the whole backbone, up to float32's rounding."""
    torch.manual_seed(0)
    backbone = build_backbone("mobilenet_v3_small", normalise=normalise).eval()
    grey = torch.rand(2, 1, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(
            backbone(grey), backbone(grey.expand(-1, 3, -1, -1).contiguous()), atol=1e-4, rtol=1e-3
        )


def test_the_coloured_tiny_backbone_sees_equal_colours_as_grey(tmp_path: Path) -> None:
    """The same file serves both; ImageNet's mean is refused."""
    path = write_tiny_weights(tmp_path / "tiny.safetensors")
    grey, coloured = (load_backbone("tiny", weights=path, colour=colour) for colour in (False, True))
    image = torch.rand(1, 1, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(grey(image), coloured(image.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-3)
    with pytest.raises(ConfigError, match="normalise"):
        build_backbone("tiny", normalise="imagenet")


def test_frozen_blocks_stay_as_they_were() -> None:
    """In training mode their statistics do not move and no gradient reaches them; the others' do."""
    backbone = TinyBackbone()
    backbone.unfreeze(2)
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    backbone.train()
    backbone(torch.rand(4, 1, 64, 64)).sum().backward()
    moved = {key for key, tensor in backbone.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved
    assert all(key.startswith(("features.6.", "features.7.")) for key in moved)
    graded = {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert graded == {name for name in before if name.startswith(("features.6.", "features.7."))} & {
        name for name, _ in backbone.named_parameters()
    }


def _network(**changes: object) -> Network:
    config = {"backbone": "tiny", "trainable_blocks": "all", "pretrained": False} | changes
    return network_of(ModelConfig.model_validate(config), classes=3, seed=0)


def test_all_that_trains_travels() -> None:
    """Weights of backbone and head, averaged statistics, no counters; a frozen backbone leaves its head."""
    network = _network()
    names = [spec.name for spec in trainable_specs(network.trained)]
    assert "backbone.features.0.0.weight" in names
    assert "head.classifier.output.bias" in names
    assert "backbone.features.0.1.running_mean" in names
    assert "backbone.features.0.1.running_second_moment" in names
    assert not any("num_batches" in name for name in names)
    for kept in ("local", "frozen"):
        names = [spec.name for spec in trainable_specs(_network(batch_norm=kept).trained)]
        assert not any("running" in name for name in names)
    frozen = _network(trainable_blocks=0, pretrained=True)
    assert frozen.trained is frozen.head
    assert trainable_specs(frozen.trained)[0].name == "spatial_extractor.project.weight"


def test_the_server_builds_what_a_site_builds() -> None:
    """`initial_module` has the same tensors as the site's network, and the same first weights."""
    for blocks in (0, "all"):
        config = ModelConfig(backbone="tiny", trainable_blocks=blocks)
        theirs = initial_module(config, classes=3, seed=4)
        ours = network_of(config, classes=3, seed=4).trained
        assert trainable_specs(theirs) == trainable_specs(ours)
        np.testing.assert_array_equal(get_flat(theirs), get_flat(ours))


def test_two_sites_average_is_their_pooled_statistic() -> None:
    """Mean and variance of 3 + 1 batches of other brightness equal those of all values together."""
    rng = np.random.default_rng(0)
    values = [rng.normal(0, 1, (300, 16)), rng.normal(5, 2, (100, 16))]
    flats, networks = [], []
    for part in values:
        network = _network()
        norm = network.backbone.features[0][1]
        norm.running_mean.copy_(torch.from_numpy(part.mean(0)))
        norm.running_var.copy_(torch.from_numpy(part.var(0)))
        flats.append(get_flat(network.trained))
        networks.append(network)
    pooled = (0.75 * flats[0] + 0.25 * flats[1]).astype(np.float32)
    set_flat(networks[0].trained, pooled)
    norm = networks[0].backbone.features[0][1]
    together = np.concatenate(values)
    np.testing.assert_allclose(norm.running_mean.numpy(), together.mean(0), atol=1e-5)
    np.testing.assert_allclose(norm.running_var.numpy(), together.var(0), rtol=1e-5)


def test_the_digest_covers_what_is_frozen() -> None:
    """What trains may differ between sites before the first round; a frozen block may not."""
    one, other = (TinyBackbone() for _ in range(2))
    other.load_state_dict(one.state_dict())
    for backbone in (one, other):
        backbone.unfreeze(1)
    other.features[7][0].weight.data += 1
    assert backbone_digest(one) == backbone_digest(other)
    other.features[0][0].weight.data += 1
    assert backbone_digest(one) != backbone_digest(other)


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "tiny"])
def test_missing_weights_say_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is downloaded: the message names the file, the address and the configuration key."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("stic_core.models.pretrained.build_backbone", lambda name, **_: TinyBackbone())
    with pytest.raises(WeightsError, match=rf"fetch https://.*\.pth.*backbone_weights: {{{name}: FILE}}"):
        load_backbone(name)


def test_old_densenet_files_are_read(tmp_path: Path) -> None:
    """torchvision's file says `norm.1` where the module is `norm1`, and has no counters."""
    whole = models.densenet121()
    old = {
        key.replace("norm1", "norm.1").replace("conv2", "conv.2"): tensor
        for key, tensor in whole.state_dict().items()
        if "num_batches" not in key
    }
    torch.save(old, tmp_path / "densenet.pth")
    loaded = load_backbone("densenet121", weights=tmp_path / "densenet.pth")
    assert torch.equal(
        loaded.state_dict()["features.denseblock1.denselayer1.norm1.weight"],
        whole.state_dict()["features.denseblock1.denselayer1.norm1.weight"],
    )


def test_random_frozen_layers_are_refused() -> None:
    """A backbone from scratch must train."""
    with pytest.raises(ValueError, match="trainable_blocks: all"):
        ModelConfig(pretrained=False)
