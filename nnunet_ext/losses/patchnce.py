"""Patch-wise contrast between an image and its translation: PatchNCE and QS-Attn's query selection.

Sources: CUT (Park et al. 2020), AccSeg-Net eqs. 4-5, QS-Attn (Hu et al. 2022) and TANQ eq. 9.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ext.losses.precision import wide


def patch_nce(query: Tensor, key: Tensor, temperature: float = 0.07) -> Tensor:
    """Cross-entropy of finding each query's own position among the keys of the same image (AccSeg-Net eq. 5).

    Args:
        query: (B, P, C) features of P positions of the translated image, L2-normalised.
        key: (B, P, C) features of the same positions of the input image, L2-normalised; gets no gradient.
        temperature: alpha of eq. 5.

    Returns:
        the mean over images and positions, >= 0.
    """
    if query.shape != key.shape or query.ndim != 3:
        raise ValueError(f"query {tuple(query.shape)} and key {tuple(key.shape)} must share one shape (B, P, C)")
    with torch.autocast(query.device.type, enabled=False):
        logits = wide(query) @ wide(key.detach()).transpose(1, 2) / temperature
        own = torch.arange(query.shape[1], device=query.device).expand(query.shape[0], -1)
        return F.cross_entropy(logits.flatten(0, 1), own.flatten())


def flatten_positions(features: Tensor) -> Tensor:
    """(B, C, *spatial) -> (B, N, C): one row for each spatial position, in memory order."""
    return features.flatten(2).transpose(1, 2)


def attention_entropy(features: Tensor, chunk: int = 1024) -> Tensor:
    """Entropy of each position's softmax attention over all positions (TANQ eq. 9), without gradient.

    Args:
        features: (B, N, C).
        chunk: rows of the (N, N) attention held in memory at a time; does not change the result.

    Returns:
        (B, N), in nats, from 0 (attends to one position) to log N (attends to all alike).
    """
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        features = wide(features)
        keys = features.transpose(1, 2)
        rows = []
        for part in features.split(chunk, dim=1):
            log_attention = (part @ keys).log_softmax(-1)
            rows.append(-(log_attention.exp() * log_attention).sum(-1))
        return torch.cat(rows, 1)


def select_attention(features: Tensor, count: int) -> Tensor:
    """The attention rows of the `count` positions of smallest entropy: QS-Attn's routing matrix.

    Args:
        features: (B, N, C) of the *input* image; gradients flow through the selected rows.
        count: rows to keep; all N when there are fewer.

    Returns:
        (B, min(count, N), N), rows sum to 1, sorted by entropy.
    """
    entropy = attention_entropy(features)
    chosen = entropy.argsort(dim=1)[:, :count]
    with torch.autocast(features.device.type, enabled=False):
        features = wide(features)
        queries = features.gather(1, chosen.unsqueeze(-1).expand(-1, -1, features.shape[-1]))
        return (queries @ features.transpose(1, 2)).softmax(-1)


def patch_contrast(
    source: Sequence[Tensor],
    output: Sequence[Tensor],
    projector: Callable[[Sequence[Tensor]], list[Tensor]],
    *,
    patches: int = 256,
    temperature: float = 0.07,
    attention_layers: Collection[int] = (),
) -> Tensor:
    """PatchNCE between the features of an image and of its translation, averaged over layers (AccSeg-Net eq. 4).

    Positions are drawn at random, the same ones in both images. In `attention_layers` QS-Attn takes their place: the
    attention rows of the input's features with the smallest entropy route the features of both images.

    Args:
        source: features (B, C_l, *spatial_l) of the input image, one per layer.
        output: features of the translated image, of the same shapes.
        projector: maps a list of (B, P, C_l) to a list of L2-normalised (B, P, width), e.g. `PatchProjector`.
        patches: positions per image and layer.
        temperature: of the softmax.
        attention_layers: indices into `source` where QS-Attn selects the positions.

    Returns:
        a scalar >= 0.
    """
    queries, keys = [], []
    for index, (src, out) in enumerate(zip(source, output, strict=True)):
        src, out = flatten_positions(src), flatten_positions(out)
        if index in attention_layers:
            routing = select_attention(src, patches)
            with torch.autocast(src.device.type, enabled=False):
                keys.append(routing @ wide(src))
                queries.append(routing @ wide(out))
        else:
            chosen = torch.randperm(src.shape[1], device=src.device)[:patches]
            keys.append(src[:, chosen])
            queries.append(out[:, chosen])
    # Keys need no gradient anywhere: patch_nce detaches them.
    with torch.no_grad():
        projected_keys = projector(keys)
    projected = zip(projector(queries), projected_keys, strict=True)
    return torch.stack([patch_nce(q, k, temperature) for q, k in projected]).mean()
