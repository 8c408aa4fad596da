"""Positive keys from registration (CCT-R's REPS, eqs. 6.11-6.13)."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ext.losses.precision import wide

# Cells per axis of a frame that a packed key can tell apart: 64 m at 1 mm.
CELLS = 1 << 16
PART = 4096  # rows of a bank


def cell_keys(frame: Tensor, position: Tensor, cell: float, offset: Tensor) -> Tensor:
    """One integer for each place: its frame and the cell of a grid that it lies in.

    Args:
        frame: (n) integers below 2**15.
        position: (n, 3) mm within the frame.
        cell: edge of a cell, mm.
        offset: (3) mm by which the grid is shifted.
    """
    index = ((position - offset) / cell).floor().long() + CELLS // 2
    key = frame.long()
    for axis in index.clamp(0, CELLS - 1).unbind(1):
        key = key * CELLS + axis
    return key


def registered_positives(
    keys: Tensor, case: Tensor, bank_keys: Tensor, bank_case: Tensor, bank_features: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean feature of the pixels of other volumes that lie where an anchor lies in their common frame (eq. 6.12).

    A position in a frame is what a registration transform makes of a pixel's place in its own volume, so eq. 6.11's
    T_qj(p) and a pixel of volume j meet where both have the same position, here: lie in the same cell of a grid. A
    grid that is shifted at random from step to step prefers no place. Features of one volume are averaged first,
    then volumes, so that a volume with many pixels in the bank does not outvote the others. Cost is linear in
    anchors and bank.

    Args:
        keys: (n) the anchors' places from `cell_keys`; below 0 has no place and no partner.
        case: (n) integers, the anchor's volume, which is never its own partner.
        bank_keys: (m) places in the bank.
        bank_case: (m).
        bank_features: (m, D).

    Returns:
        (n, D) the partners' mean, zero where there is none, and (n) whether there is one. No gradient.
    """
    n, dim = len(keys), bank_features.shape[1]
    with torch.no_grad():
        nobody = wide(bank_features[:0]).new_zeros((n, dim)), torch.zeros(n, dtype=torch.bool, device=keys.device)
        if n == 0:
            return nobody
        places, place = keys.unique(return_inverse=True)
        at = torch.searchsorted(places, bank_keys).clamp_max_(len(places) - 1)
        wanted = ((places[at] == bank_keys) & (bank_keys >= 0)).nonzero()[:, 0]
        if len(wanted) == 0:
            return nobody
        # One group for each place that is asked for and each volume that the bank has there.
        volumes = int(torch.cat((case, bank_case)).max()) + 1
        pair = at[wanted] * volumes + bank_case[wanted].long()
        pairs, group = pair.unique(return_inverse=True)
        mean = nobody[0].new_zeros((len(pairs), dim))
        # Half-precision banks: only what is asked for is widened, and a part at a time: large copies are what costs.
        for part in torch.arange(len(wanted), device=keys.device).split(PART):
            mean.index_add_(0, group[part], wide(bank_features[wanted[part]]))
        mean /= group.bincount(minlength=len(pairs))[:, None]
        at_place = pairs.div(volumes, rounding_mode="floor")
        total = mean.new_zeros((len(places), dim)).index_add_(0, at_place, mean)
        count = at_place.bincount(minlength=len(places))
        # The anchor's own volume is taken out again.
        own = place * volumes + case.long()
        own_at = torch.searchsorted(pairs, own).clamp_max(len(pairs) - 1)
        is_own = pairs[own_at] == own
        others = total[place] - mean[own_at] * is_own[:, None]
        n_others = count[place] - is_own.long()
        found = n_others > 0
        return torch.where(found[:, None], others / n_others.clamp_min(1)[:, None], 0), found


def combined_positives(
    by_label: Tensor, by_registration: Tensor, found: Tensor, weight_label: float, weight_registration: float
) -> Tensor:
    """a_p = w1 a_p^l + w2 a_p^r (eq. 6.13); an anchor without a partner keeps a_p^l alone.

    Args:
        by_label: (D) the class's mean anchor (eq. 6.5).
        by_registration: (n, D) from `registered_positives`.
        found: (n).
        weight_label: w1.
        weight_registration: w2.

    Returns:
        (n, D).
    """
    both = weight_label * by_label + weight_registration * by_registration.to(by_label.dtype)
    return torch.where(found[:, None], both, by_label)
