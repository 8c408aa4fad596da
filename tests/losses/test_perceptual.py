from __future__ import annotations

import pytest
import torch

from nnunet_ext.errors import InputError
from nnunet_ext.losses.perceptual import PerceptualLoss


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights in torchvision's layout."""
    vgg = pytest.importorskip("torchvision.models.vgg")
    torch.manual_seed(0)
    state = {f"features.{k}": v for k, v in vgg.make_layers(vgg.cfgs["E"]).state_dict().items()}
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state | {"classifier.0.weight": torch.zeros(1)}, path)
    return path


def test_distance_gradient_and_frozen_network(weights):
    loss = PerceptualLoss(weights)
    a = torch.rand(2, 1, 32, 32, requires_grad=True)
    b = torch.rand(2, 1, 32, 32, requires_grad=True)
    assert loss(a, a).item() == 0
    value = loss(a, b)
    assert value > 0
    assert value.item() == pytest.approx(loss(b, a).item(), rel=1e-5)
    value.backward()
    assert a.grad is not None
    assert a.grad.abs().sum() > 0
    assert b.grad is None
    assert not any(p.requires_grad for p in loss.parameters())


def test_equals_the_layers_by_hand(weights):
    loss = PerceptualLoss(weights)
    a, b = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x, y = ((((i + 1) / 2).expand(-1, 3, -1, -1) - mean[:, None, None]) / std[:, None, None] for i in (a, b))
    expected, convolutions, stage = 0.0, 0, 0
    pending = False
    for layer in loss.features:
        x, y = layer(x), layer(y)
        if isinstance(layer, torch.nn.MaxPool2d):
            convolutions = 0
        if isinstance(layer, torch.nn.Conv2d):
            convolutions += 1
            pending = convolutions == 1
        if isinstance(layer, torch.nn.ReLU) and pending:
            expected += [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1][stage] * (x - y).abs().mean().item()
            stage, pending = stage + 1, False
    assert stage == 5
    assert loss(a, b).item() == pytest.approx(expected, rel=1e-4)


def test_bad_files_are_the_users_mistake(tmp_path, weights):
    with pytest.raises(InputError, match="no such file"):
        PerceptualLoss(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match="not readable as VGG19"):
        PerceptualLoss(tmp_path / "text.pth")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not readable as VGG19"):
        PerceptualLoss(tmp_path / "other.pth")
