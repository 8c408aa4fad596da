"""Memory banks: the last rows that were pushed, in first-in, first-out order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nnunet_ext.losses.sampling import spread_draws


class Bank:
    """A ring of rows with named columns, such as a feature and its label.

    Args:
        capacity: rows kept; the oldest make room for new ones.
        columns: name -> (shape of one row's entry, type). Features in half precision take half the room.
        device: where the rows lie.
    """

    def __init__(
        self,
        capacity: int,
        columns: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity = capacity
        self.columns = {
            name: torch.zeros((capacity, *shape), dtype=dtype, device=device)
            for name, (shape, dtype) in columns.items()
        }
        self.filled = 0
        self._next = 0

    def __len__(self) -> int:
        return self.filled

    @property
    def fill(self) -> float:
        """Share of the capacity in use."""
        return self.filled / self.capacity

    def push(self, **rows: Tensor) -> None:
        """Append rows, oldest first; of more than the capacity the last ones stay. No gradient is kept."""
        count = len(next(iter(rows.values())))
        kept = min(count, self.capacity)
        if kept == 0:
            return
        for name, column in self.columns.items():
            new = rows[name].detach()[count - kept :].to(column.dtype)
            until_end = min(kept, self.capacity - self._next)
            column[self._next : self._next + until_end] = new[:until_end]
            column[: kept - until_end] = new[until_end:]
        self._next = (self._next + kept) % self.capacity
        self.filled = min(self.filled + kept, self.capacity)

    def rows(self) -> dict[str, Tensor]:
        """All rows in use, in the order of the ring."""
        return {name: column[: self.filled] for name, column in self.columns.items()}

    def sample(self, n: int) -> dict[str, Tensor]:
        """`n` different rows at random, or all there are."""
        device = next(iter(self.columns.values())).device
        index = spread_draws(self.filled, min(n, self.filled), device)
        return {name: column[index] for name, column in self.columns.items()}

    def state_dict(self) -> dict[str, object]:
        """The rows in use and where the next one goes: plain tensors and numbers."""
        return {"rows": {name: rows.cpu().clone() for name, rows in self.rows().items()}, "next": self._next}

    def load_state_dict(self, state: dict) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: when the rows are of another capacity, shape or number of columns.
        """
        rows = state["rows"]
        self.filled = len(next(iter(rows.values())))
        self._next = int(state["next"])
        # A bank that is not full yet goes on at its end; one that goes on elsewhere was full, of fewer rows.
        fits = self.filled == self.capacity or self._next == self.filled < self.capacity
        if rows.keys() != self.columns.keys() or not fits or self._next >= self.capacity:
            raise ValueError(
                f"bank: {self.filled} rows of {sorted(rows)} do not fit {self.capacity} of {sorted(self.columns)}"
            )
        for name, column in self.columns.items():
            column[: self.filled] = rows[name].to(column.device)
