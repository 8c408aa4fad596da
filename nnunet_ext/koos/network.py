"""MSF-Koos-Net: low-level encoder E, mask, high-level encoder E_H, two projections and the head (Han et al. 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets import ResNet
from torch import Tensor, nn

from nnunet_ext.koos.encoder import EncoderSpec
from nnunet_ext.koos.settings import KoosSettings

# E treats slabs one by one; a few at a time stay in a processor's cache and are twice as fast as hundreds.
SLABS_AT_A_TIME = 48


class KoosNet(nn.Module):
    """From a box around the tumour and its mask to features, projections and logits.

    E sees slabs of neighbouring slices, one per slice of the box (2.5D). Its features, at a quarter of the in-plane
    resolution, are joined with the mask, averaged down to that size. E_H, MONAI's ResNet with one basic block in each
    of four stages, runs over the stack of slices (`3d`) or over single slabs whose features are averaged (`2.5d`).

    Args:
        settings: see `KoosSettings`.
        encoder: what E is built from; its weights are loaded separately.
    """

    def __init__(self, settings: KoosSettings, encoder: EncoderSpec) -> None:
        super().__init__()
        self.slices = encoder.slices
        self.volumetric = settings.mode == "3d"
        self.slabs = settings.slabs
        self.encoder = encoder.build()
        low = self.encoder.out_channels
        dim = 3 if self.volumetric else 2
        convolution = nn.Conv3d if self.volumetric else nn.Conv2d
        self.gate = convolution(1, low, 3, padding=1) if settings.join == "gate" else None
        planes = [settings.width * 2**i for i in range(4)]
        self.high = ResNet(
            "basic",
            [1, 1, 1, 1],
            planes,
            spatial_dims=dim,
            n_input_channels=low + (self.gate is None),
            conv1_t_size=3,
            no_max_pool=True,
            feed_forward=False,
            norm=(settings.norm, {"affine": True}),
        )
        self.project_self = _projection(planes[-1], settings.projection)
        self.project_supervised = _projection(planes[-1], settings.projection)
        self.head = nn.Linear(planes[-1], len(settings.classes))
        self._frozen: tuple[nn.Module, ...] = ()

    @property
    def high_level(self) -> list[nn.Module]:
        """E_H: what lies between E's features and the pooled ones."""
        return [self.high] if self.gate is None else [self.gate, self.high]

    def freeze(self, *modules: nn.Module) -> None:
        """Keep these modules as they are: no gradients, and in evaluation mode whatever `train` says.

        The latter keeps still what no gradient moves: running statistics of normalisation layers. All others learn.
        """
        self._frozen = modules
        self.requires_grad_(True)
        for module in modules:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> KoosNet:
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def features(self, image: Tensor, mask: Tensor) -> Tensor:
        """Pooled features of E_H.

        Args:
            image: (B, slices, rows, columns) in [-1, 1]; rows and columns divisible by 4.
            mask: the same shape, 1 in the tumour.

        Returns:
            (B, 8 * width).
        """
        batch = len(image)
        half = self.slices // 2
        padded = torch.cat([image[:, :1]] * half + [image] + [image[:, -1:]] * half, 1)
        slabs = padded.unfold(1, self.slices, 1).movedim(-1, 2)
        if not self.volumetric:
            index = spread(mask, self.slabs)
            rows = torch.arange(batch, device=image.device)[:, None]
            slabs, mask = slabs[rows, index], mask[rows, index]
        low = torch.cat([self.encoder(part) for part in slabs.flatten(0, 1).split(SLABS_AT_A_TIME)])
        small = F.adaptive_avg_pool2d(mask.float(), (low.shape[2], low.shape[3])).flatten(0, 1)[:, None]
        if self.volumetric:
            low, small = (x.unflatten(0, (batch, -1)).movedim(1, 2) for x in (low, small))
        joined = torch.cat([low, small.to(low)], 1) if self.gate is None else low * self.gate(small.to(low)).sigmoid()
        pooled = self.high(joined)
        return pooled if self.volumetric else pooled.unflatten(0, (batch, -1)).mean(1)

    def project(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """F_self and F_sup, (B, projection) each, of unit length in float32."""
        own, supervised = (head(features).float() for head in (self.project_self, self.project_supervised))
        return F.normalize(own, dim=1), F.normalize(supervised, dim=1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, classes); arguments as for `features`."""
        return self.head(self.features(image, mask))


def spread(mask: Tensor, count: int) -> Tensor:
    """Indices of `count` slices spread evenly over the slices that hold tumour, ends included; (B, count).

    Args:
        mask: (B, slices, rows, columns); an instance without tumour gets slices spread over all.
    """
    held = mask.flatten(2).any(2)
    held = held | ~held.any(1, keepdim=True)
    first = held.int().argmax(1)
    last = held.shape[1] - 1 - held.flip(1).int().argmax(1)
    steps = torch.linspace(0, 1, count, device=mask.device) if count > 1 else torch.full((1,), 0.5, device=mask.device)
    return (first[:, None] + steps * (last - first)[:, None]).round().long()


def _projection(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, out))
