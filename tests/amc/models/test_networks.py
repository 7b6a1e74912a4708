"""Our networks against their papers, against torchvision's, and against each other."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from amc.errors import ModelError
from amc.models.architectures import NETWORKS, PadShortcut


def randomise_statistics_(model: nn.Module, generator: torch.Generator) -> None:
    """Give BatchNorm running statistics that differ from 0 and 1, so that they matter."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, example: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example)
    return counter.get_total_flops() // 2


def test_resnets_have_the_papers_sizes() -> None:
    # He et al. 2015, table 6: .27, .46, .66, .85 and 1.7 million parameters.
    millions = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
    for depth, million in millions.items():
        model = NETWORKS[f"resnet{depth}"]()
        assert params(model) / 1e6 == pytest.approx(million, abs=0.03)
        assert len([m for m in model.modules() if isinstance(m, nn.Conv2d)]) == depth - 1


def test_resnet20_costs_what_its_shapes_say() -> None:
    stem = 3 * 16 * 9 * 32 * 32
    stage1 = 6 * 16 * 16 * 9 * 32 * 32
    stage2 = (16 * 32 + 5 * 32 * 32) * 9 * 16 * 16
    stage3 = (32 * 64 + 5 * 64 * 64) * 9 * 8 * 8
    expected = stem + stage1 + stage2 + stage3 + 64 * 10
    assert macs(NETWORKS["resnet20"](), torch.zeros(1, 3, 32, 32)) == expected
    shortcuts = (16 * 32) * 16 * 16 + (32 * 64) * 8 * 8
    projected = NETWORKS["resnet20"](shortcut="B")
    assert macs(projected, torch.zeros(1, 3, 32, 32)) == expected + shortcuts


def test_narrow_resnet20_costs_what_its_shapes_say() -> None:
    a, b, c = 11, 23, 45  # by odd numbers of channels, so that zeros cannot be halved
    stem, stage1 = 3 * a * 9 * 32 * 32, 6 * a * a * 9 * 32 * 32
    stage2, stage3 = (a * b + 5 * b * b) * 9 * 16 * 16, (b * c + 5 * c * c) * 9 * 8 * 8
    narrow = NETWORKS["resnet20"](widths=(a, b, c))
    assert macs(narrow, torch.zeros(1, 3, 32, 32)) == stem + stage1 + stage2 + stage3 + c * 10
    with pytest.raises(ModelError, match="widths"):
        NETWORKS["resnet20"](widths=(16, 8, 64))


def test_resnet_keys_are_those_of_the_published_checkpoints() -> None:
    names = {name.rsplit(".", 1)[0] for name in NETWORKS["resnet20"]().state_dict()}
    blocks = {
        f"layer{stage}.{block}.{part}"
        for stage in (1, 2, 3)
        for block in range(3)
        for part in ("conv1", "bn1", "conv2", "bn2")
    }
    assert names == {"conv1", "bn1", "linear"} | blocks
    extra = set(NETWORKS["resnet20"](shortcut="B").state_dict()) - set(
        NETWORKS["resnet20"]().state_dict()
    )
    assert {name.rsplit(".", 1)[0] for name in extra} == {
        f"layer{stage}.0.shortcut.{part}" for stage in (2, 3) for part in (0, 1)
    }


def test_pad_shortcut_is_option_a() -> None:
    x = torch.randn(2, 16, 9, 8, generator=torch.Generator().manual_seed(0))
    planes = 32
    expected = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4))
    assert torch.equal(PadShortcut(2, 8, 8)(x), expected)
    assert NETWORKS["resnet20"]().layer3[0].shortcut.extra_repr() == "stride=2, front=16, back=16"


def test_mobilenet_v2_is_torchvisions_with_two_strides_less() -> None:
    theirs = models.mobilenet_v2(num_classes=10).eval()
    theirs.features[0][0].stride = (1, 1)
    theirs.features[2].conv[1][0].stride = (1, 1)
    generator = torch.Generator().manual_seed(0)
    randomise_statistics_(theirs, generator)
    ours = NETWORKS["mobilenet_v2"]().eval()
    state = {k.replace("classifier.1", "classifier"): v for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("depth", "letter"), [(11, "A"), (13, "B"), (16, "D"), (19, "E")])
def test_vgg_is_torchvisions_features_and_one_linear(depth: int, letter: str) -> None:
    theirs = models.vgg.make_layers(models.vgg.cfgs[letter], batch_norm=True).eval()
    generator = torch.Generator().manual_seed(0)
    randomise_statistics_(theirs, generator)
    for module in theirs:
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.bias)
    ours = NETWORKS[f"vgg{depth}_bn"]().eval()
    own = ours.features.state_dict()
    ours.features.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in own})
    x = torch.randn(1, 3, 32, 32, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), ours.classifier(theirs(x).flatten(1)))


def test_every_network_takes_other_classes_and_channels() -> None:
    for name, factory in NETWORKS.items():
        model = factory(num_classes=7, in_channels=2).eval()
        with torch.no_grad():
            assert model(torch.zeros(2, 2, 32, 32)).shape == (2, 7), name


def test_initialisation_has_he_et_als_variance() -> None:
    torch.manual_seed(0)
    conv = NETWORKS["resnet20"]().layer3[0].conv1  # 32 to 64 channels, 3x3
    assert conv.weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.05)


def test_unknown_shortcut_is_refused() -> None:
    with pytest.raises(ModelError, match="'C'"):
        NETWORKS["resnet20"](shortcut="C")
