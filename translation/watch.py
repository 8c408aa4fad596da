"""An eye on adversarial training: images, and early warnings."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from nnunet_ext.errors import StageError
from nnunet_ext.files import atomic_path
from translation.sampling import Batch

log = logging.getLogger(__name__)

#: the discriminator wins when it errs this little on both sides, for this many epochs on end
CERTAIN, PATIENCE = 0.02, 3
#: outputs collapse when they differ this much less from one another than the real target images do
COLLAPSED = 0.1


def spread(images: Tensor) -> float:
    """How much the images (B, ...) of a batch differ: the standard deviation over the batch, averaged over pixels.

    Of one image, its own standard deviation.
    """
    images = images.float()
    return float(images.std(0).mean() if len(images) > 1 else images.std())


class Watch:
    """Warns once when a training goes wrong, and again after it had recovered."""

    def __init__(self) -> None:
        self.certain_epochs = 0
        self.warned: set[str] = set()

    def check(self, epoch: int, means: Mapping[str, float]) -> list[str]:
        """Look at an epoch's means; returns the warnings that hold now, logging those that are new.

        Args:
            epoch: counted from 0.
            means: at least `discriminator`, `spread_output` and `spread_target`.

        Raises:
            StageError: when a term is not finite: training cannot recover from that.
        """
        for name, value in means.items():
            if not math.isfinite(value):
                raise StageError(
                    f"epoch {epoch}: {name} is {value}; fit again with a smaller learning_rate or amp=false"
                )
        self.certain_epochs = self.certain_epochs + 1 if means["discriminator"] < CERTAIN else 0
        now = {}
        if self.certain_epochs >= PATIENCE:
            now["discriminator"] = (
                f"the discriminator wins (loss {means['discriminator']:.3f} for {self.certain_epochs} epochs): the"
                " generator learns little from it; check that both sides show the same region at the same scale,"
                " or lower discriminator_width"
            )
        if means["spread_output"] < COLLAPSED * means["spread_target"]:
            now["collapse"] = (
                f"the output collapses (images differ by {means['spread_output']:.3f}, real ones by"
                f" {means['spread_target']:.3f}): lower learning_rate or raise the weight of the cycle or contrast"
            )
        for kind in now.keys() - self.warned:
            log.warning("epoch %d: %s", epoch, now[kind])
        self.warned = set(now)
        return list(now.values())


def image_grid(batch: Batch, output: Tensor, target: Path, columns: int = 6) -> None:
    """Write source, translation (with the labels' outlines) and unpaired real target images, middle slices, as PNG."""
    middle = batch.source.shape[1] // 2
    columns = min(columns, len(batch.source))
    figure = Figure(figsize=(2 * columns, 6.2), layout="constrained")
    axes = figure.subplots(3, columns, squeeze=False)
    rows = (("source", batch.source), ("translated", output), ("real target", batch.target))
    for row, (title, images) in enumerate(rows):
        for column in range(columns):
            ax = axes[row, column]
            ax.imshow(images[column, middle].float().cpu().numpy(), cmap="gray", vmin=-1, vmax=1)
            labels = batch.labels[column].cpu().numpy()
            if row == 1 and labels.max() > 0:
                ax.contour(labels, np.arange(labels.max()) + 0.5, colors="tab:red", linewidths=0.4)
            ax.set_axis_off()
        axes[row, 0].set_title(title, fontsize="small", loc="left")
    with atomic_path(target) as partial:
        figure.savefig(partial, dpi=80)


class Board:
    """TensorBoard where it is installed, and nothing where it is not."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.writer = None
        else:
            self.writer = SummaryWriter(str(folder))

    def write(self, epoch: int, means: Mapping[str, float], images: Tensor | None) -> None:
        """Add an epoch's means and, where given, a batch of images (B, 1, H, W) in [-1, 1]."""
        if self.writer is None:
            return
        for name, value in means.items():
            self.writer.add_scalar(name, value, epoch)
        if images is not None:
            self.writer.add_images("translated", (images.clamp(-1, 1) + 1) / 2, epoch)
        self.writer.flush()
