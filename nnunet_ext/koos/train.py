"""The two stages: contrastive pre-training, then the head."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ext.errors import StageError
from nnunet_ext.koos.batches import Batch, Batches
from nnunet_ext.koos.encoder import LowLevel
from nnunet_ext.koos.losses import self_contrast, supervised_contrast
from nnunet_ext.koos.network import KoosNet
from nnunet_ext.koos.settings import KoosSettings
from nnunet_ext.progress import progress
from nnunet_ext.seeding import seeded
from nnunet_ext.training.checkpoint import write as write_checkpoint
from nnunet_ext.training.terms import Terms

log = logging.getLogger(__name__)

LATEST = "checkpoint_latest.pth"
STAGES = ("pre-training", "head")


def train(batches: Batches, low: LowLevel, settings: KoosSettings, folder: Path, device: torch.device) -> KoosNet:
    """Pre-train E_H by contrast, then learn the head on frozen features.

    Continues where `folder` holds the checkpoint of an interrupted run; the result is the same to the last bit on a
    CPU.

    Args:
        batches: of the training exams.
        low: the low-level encoder.
        settings: see `KoosSettings`.
        folder: for checkpoint_latest.pth, terms.csv and terms.png.
        device: where to train.

    Returns:
        the network in evaluation mode.
    """
    with seeded(settings.seed):
        network = KoosNet(settings, low.spec)
    network.encoder.load_state_dict(low.weights)
    network.to(device)
    epochs = (settings.pretrain_epochs if settings.pretraining else 0, settings.head_epochs)
    table = Terms(folder)
    start, optimiser_state = 0, None
    if (folder / LATEST).exists():
        checkpoint = torch.load(folder / LATEST, map_location=device, weights_only=True)
        network.load_state_dict(checkpoint["weights"])
        start, optimiser_state = checkpoint["epoch"], checkpoint["optimiser"]
        table.resume(start)
        log.info("%s: continuing with epoch %d of %d", folder, start + 1, sum(epochs))
    steps = len(batches)
    optimiser: torch.optim.Optimizer | None = None
    amp = settings.amp and device.type == "cuda"

    def updates() -> Iterator[tuple[int, int]]:
        for epoch in range(start, sum(epochs)):
            for step in range(steps):
                yield epoch, step

    for epoch, step in progress(updates(), "fitting", total=(sum(epochs) - start) * steps):
        stage = int(epoch >= epochs[0])
        own = epoch - stage * epochs[0]
        if step == 0:
            if optimiser is None or own == 0:
                optimiser = _start(network, settings, stage)
                if optimiser_state is not None and own:
                    optimiser.load_state_dict(optimiser_state)
                optimiser_state = None
            rate = settings.head_learning_rate if stage else settings.pretrain_learning_rate
            for group in optimiser.param_groups:
                group["lr"] = rate * (1 - own / epochs[stage]) ** 0.9
        assert optimiser is not None  # made in step 0
        batch = batches.batch(stage, own * steps + step).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            terms, loss = head_loss(network, batch) if stage else contrast_loss(network, batch, settings)
        if not torch.isfinite(loss):
            raise StageError(f"epoch {epoch}, {STAGES[stage]}: the loss is {loss.item()}; a smaller step may help")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        table.add(**terms)
        if step < steps - 1:
            continue
        table.close_epoch(epoch, table.means())
        if (epoch + 1) % settings.save_every == 0:
            state = {"epoch": epoch + 1, "weights": network.state_dict(), "optimiser": optimiser.state_dict()}
            write_checkpoint(state, folder / LATEST)
    return network.eval()


def contrast_loss(network: KoosNet, batch: Batch, settings: KoosSettings) -> tuple[dict[str, Tensor], Tensor]:
    """Eq. 5 over all exams of the batch, and eq. 6 over the graded ones."""
    features = network.features(batch.images.flatten(0, 1), batch.masks.flatten(0, 1))
    own, supervised = (z.unflatten(0, (2, -1)) for z in network.project(features))
    graded = batch.grades >= 0
    terms = {
        "self_contrast": self_contrast(own[0], own[1], settings.temperature),
        "supervised_contrast": supervised_contrast(
            supervised[0, graded], supervised[1, graded], batch.grades[graded], settings.temperature
        ),
    }
    loss = settings.lambda_self * terms["self_contrast"] + settings.lambda_supervised * terms["supervised_contrast"]
    return terms, loss


def head_loss(network: KoosNet, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Cross entropy of both views."""
    logits = network(batch.images.flatten(0, 1), batch.masks.flatten(0, 1)).float()
    grades = batch.grades.repeat(2)
    loss = F.cross_entropy(logits, grades)
    return {"cross_entropy": loss, "accuracy": (logits.argmax(1) == grades).float().mean()}, loss


def _start(network: KoosNet, settings: KoosSettings, stage: int) -> torch.optim.Optimizer:
    """Freeze what this stage leaves alone, and an optimiser of the rest."""
    if stage == 0:
        network.freeze(*([] if settings.train_encoder else [network.encoder]), network.head)
    else:
        projections = [network.project_self, network.project_supervised]
        kept: list[torch.nn.Module] = []
        if settings.frozen:
            # Without pre-training E_H holds nothing yet that would be worth keeping.
            kept = [network.encoder, *(network.high_level if settings.pretraining else [])]
        network.freeze(*kept, *projections)
    network.train()
    rate = settings.head_learning_rate if stage else settings.pretrain_learning_rate
    return torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=rate)
