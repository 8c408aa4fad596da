"""Perceptual loss on VGG19's features (Johnson et al. 2016; MSF-Net eq. 1), from weights in a local file."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_ext.errors import InputError, opening

# First convolution of each of VGG19's five stages, after its ReLU; deeper stages weigh more because they are smaller.
_LAYERS = (1, 6, 11, 20, 29)
_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """Weighted L1 distance between the features of two images in a frozen VGG19.

    Args:
        weights: a file with the state dictionary of torchvision's `vgg19`. Nothing is ever downloaded.

    Raises:
        InputError: for a missing or unfit file, or without torchvision.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        try:
            from torchvision.models.vgg import cfgs, make_layers
        except ImportError:
            raise InputError("vgg19: torchvision is not installed, the perceptual loss needs it") from None
        if not weights.is_file():
            raise InputError(f"{weights}: no such file, the weights of torchvision's VGG19 are needed")
        # The convolutions alone: the classifier behind them is six times as large and not used.
        features = make_layers(cfgs["E"])
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            features.load_state_dict(
                {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")}
            )
        except Exception as error:
            raise InputError(
                f"{weights}: not readable as VGG19 ({opening(error)}), torchvision's weights are needed"
            ) from None
        self.features = features[: _LAYERS[-1] + 1].eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(_MEAN)[None, :, None, None])
        self.register_buffer("std", torch.tensor(_STD)[None, :, None, None])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance of two batches of grey images (B, 1, H, W) in [-1, 1]; `b` gets no gradient."""
        x, y = self._normalised(a), self._normalised(b.detach())
        loss = a.new_zeros(())
        for index, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if index in _LAYERS:
                loss = loss + _WEIGHTS[_LAYERS.index(index)] * F.l1_loss(x.float(), y.float())
        return loss

    def _normalised(self, image: Tensor) -> Tensor:
        grey = ((image + 1) / 2).expand(-1, 3, -1, -1)
        return (grey - self.get_buffer("mean")) / self.get_buffer("std")
