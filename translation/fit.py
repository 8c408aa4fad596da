"""Fitting a method: the loop, its checkpoints and its reports."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from nnunet_ext.data.images import read as read_image
from nnunet_ext.data.images import require_same_grid
from nnunet_ext.device import bfloat16_warning, pick_device
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json
from nnunet_ext.progress import progress
from nnunet_ext.seeding import seed_everything
from nnunet_ext.training.checkpoint import write as write_checkpoint
from nnunet_ext.training.terms import Terms as TermTable
from translation.cohort import Cohort, read_cohort
from translation.method import LearnedMethod, as_slices
from translation.model import DESCRIPTION, FINAL, LATEST, default_folder, description
from translation.optimise import linear_decay
from translation.registry import build_settings, entry
from translation.sampling import Batches
from translation.settings import MSFNetSettings, TranslationSettings
from translation.volume.cache import prepare_cohorts
from translation.volume.preparation import atlas_of, place
from translation.watch import Board, Watch, image_grid, spread

log = logging.getLogger(__name__)

#: pairs in the image grids, from which it is also told whether the output collapses
SHOWN = 6


def fit(
    source: str,
    target: str,
    method: str,
    *,
    output: Path | None = None,
    preset: str = "paper",
    overrides: tuple[str, ...] = (),
    device: str | None = None,
) -> Path:
    """Fit a method, or continue where an interrupted fit stopped.

    Args:
        source, target: `ID`, `DatasetXXX_Name`, or either with `:domain`. Labels of the target are never read.
        method: a name of the registry.
        output: the model folder; `nnUNet_results/translation/SOURCE__TARGET/METHOD` without it.
        preset, overrides: see `build_settings`.
        device: e.g. `cpu`, `cuda:1`.

    Returns:
        the model folder.

    Raises:
        InputError: for whatever is wrong with the input.
    """
    settings = build_settings(method, preset, overrides)
    from_source, to_target = (
        read_cohort(source, "--source", labelled=True),
        read_cohort(target, "--target", labelled=False),
    )
    folder = output or default_folder(from_source, to_target, method)
    with _processes(device) as (rank, on):
        described = description(folder, method, settings, from_source, to_target)
        if rank == 0:
            preparation, sources, targets = prepare_cohorts(from_source, to_target, settings, folder)
        if dist.is_initialized():
            dist.barrier()
            if rank:
                # Everything is in the cache now.
                preparation, sources, targets = prepare_cohorts(from_source, to_target, settings, folder)
        cls = entry(method).load()
        if issubclass(cls, LearnedMethod) and isinstance(settings, TranslationSettings):
            if (folder / FINAL).exists():
                log.info("%s: already fitted, nothing to do", folder)
                return folder
            arguments: dict[str, Any] = {}
            further: dict[str, list[NDArray[np.int16]]] = {}
            if isinstance(settings, MSFNetSettings):
                if settings.vgg19 is None:
                    log.info("perceptual loss: off, no weights were given (--set vgg19=FILE turns it on)")
                further = _further_labels(settings, from_source, folder, preparation)
                arguments["further"] = {name: int(max(v.max() for v in rows)) + 1 for name, rows in further.items()}
            if settings.bfloat16 and (warning := bfloat16_warning(on)):
                log.warning(warning)
            seed_everything(settings.seed)
            learner = cls(settings, preparation, **arguments)
            learner.start_training(on)
            if rank == 0:
                learner.tell_about([case.labels for case in sources if case.labels is not None])
            batches = Batches(sources, targets, settings, rank, further)
            # Only now: settings that turn out to be wrong do not make the folder another fit's.
            if rank == 0:
                write_json(folder / DESCRIPTION, described)
            _train(learner, settings, batches, folder, on, rank, arguments.get("further", {}))
        elif rank == 0:
            write_json(folder / DESCRIPTION, described)
    log.info("%s: fitted", folder)
    return folder


def _train(
    learner: LearnedMethod,
    settings: TranslationSettings,
    batches: Batches,
    folder: Path,
    device: torch.device,
    rank: int,
    further: dict[str, int],
) -> None:
    table, watch, first = TermTable(folder if rank == 0 else None), Watch(), 0
    latest = folder / LATEST
    if latest.exists():
        checkpoint = torch.load(latest, map_location=device, weights_only=True)
        learner.load_state_dict(checkpoint["weights"])
        learner.load_training_state(checkpoint["training"])
        first = checkpoint["epoch"]
        table.resume(first)
        log.info("%s: continuing with epoch %d of %d", folder, first + 1, settings.epochs)
    board = Board(folder / "tensorboard") if rank == 0 else None
    world = dist.get_world_size() if dist.is_initialized() else 1
    steps = settings.iterations_per_epoch or max(1, batches.source_slices // (settings.batch_size * world))
    shown = batches.sample(SHOWN).to(device)

    def updates() -> Iterator[tuple[int, int]]:
        for epoch in range(first, settings.epochs):
            for step in range(steps):
                yield epoch, step

    total = (settings.epochs - first) * steps
    for epoch, step in progress(updates(), "fitting", total=total):
        index = epoch * steps + step
        if step == 0:
            learner.train()
            learner.optimisers.set_rate(linear_decay(epoch, settings.epochs, settings.constant_epochs))
        batch = batches.batch(index).to(device)
        # What an update draws depends on the seed, the process and its number only: resuming is exact.
        torch.manual_seed(int(np.random.SeedSequence([settings.seed, rank, index]).generate_state(1)[0]))
        table.add(**learner.fit_step(batch))
        if step < steps - 1 or rank:
            continue
        learner.eval()
        with torch.inference_mode():
            labels = shown.labels if learner.needs_labels else None
            output = learner.translate_slab(shown.source, labels).float()
        table.add(spread_output=spread(output), spread_target=spread(shown.target))
        means = table.means()
        table.close_epoch(epoch, means)
        watch.check(epoch, means)
        picture = (epoch + 1) % settings.images_every == 0 or epoch + 1 == settings.epochs
        if picture:
            image_grid(shown, output, folder / "images" / f"epoch_{epoch + 1:04d}.png")
        if board is not None:
            board.write(epoch, means, as_slices(output) if picture else None)
        if (epoch + 1) % settings.save_every == 0 and epoch + 1 < settings.epochs:
            state = {"epoch": epoch + 1, "weights": learner.state_dict(), "training": learner.training_state()}
            write_checkpoint(state | {"further": further}, latest)
    if rank == 0:
        write_checkpoint(
            {"epoch": settings.epochs, "weights": learner.state_dict(), "further": further}, folder / FINAL
        )
        latest.unlink(missing_ok=True)


def _further_labels(
    settings: MSFNetSettings, source: Cohort, folder: Path, preparation: Any
) -> dict[str, list[NDArray[np.int16]]]:
    """Further label sets on the working grid, kept in memory: they are few and small."""
    atlas = atlas_of(preparation, folder)
    sets: dict[str, list[NDArray[np.int16]]] = {}
    for name, where in settings.label_folders.items():
        rows = []
        for case in source.cases:
            path = Path(where) / f"{case}{source.ending}"
            image = source.image(case)
            label = read_image(path)
            require_same_grid(image, label, source.image_path(case), path)
            placement = place(image, preparation.volume, preparation.spacing, "source", atlas)
            rows.append(placement.forward_labels(label))
        if min(int(r.min()) for r in rows) < 0:
            raise InputError(f"{where}: holds negative label values, 0 to n are needed")
        sets[name] = rows
    return sets


@contextmanager
def _processes(device: str | None) -> Iterator[tuple[int, torch.device]]:
    """This process' rank and device; joins the others when started by torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield 0, pick_device(device)
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    gpu = torch.cuda.is_available() and device != "cpu"
    on = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(on)
    # The others wait while the first process prepares the scans.
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(days=1))
    try:
        yield dist.get_rank(), on
    finally:
        dist.destroy_process_group()
