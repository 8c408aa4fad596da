"""What one update of CUT and CycleGAN costs here, as a multiple of the authors' own implementation.

    git clone https://github.com/taesungp/contrastive-unpaired-translation CLONE
    OMP_NUM_THREADS=1 python scripts/benchmark_fit_speed.py CLONE

That repository holds both models; beside this project's packages it needs `packaging`, `pillow` and `torchvision`.
Updates take turns, so that whatever else the machine does hits both alike; medians are compared. Settings are equal:
single slices, batch and crop, all networks (the numbers of their parameters are compared first), 256 patches, identity
terms, image pool, least squares, Adam, float32. Loading of batches is not part of an update.

The reference knows one flag for blurring before every halving, in the generator and in the discriminator; CUT sets it.
Here discriminators are never blurred, which makes them cheaper. So that this is not taken for speed, the reference's
is built without, too; `--as-published` leaves it as it is.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from translation.method import LearnedMethod
from translation.registry import build_settings, entry
from translation.sampling import Batch
from translation.settings import TranslationSettings, VolumeSettings
from translation.volume.preparation import Preparation

#: method -> (the reference's module and class, its networks -> ours)
REFERENCES = {
    "cut": ("models.cut_model", "CUTModel", {"netG": "generator", "netD": "judge", "netF": "projector"}),
    "cyclegan": (
        "models.cycle_gan_model",
        "CycleGANModel",
        {"netG_A": "to_target", "netG_B": "to_source", "netD_A": "judge_target", "netD_B": "judge_source"},
    ),
}
DISCRIMINATOR_LAYERS = 3

#: performs one update with (B, 1, H, W) images of source and target
Update = Callable[[Tensor, Tensor], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="folder of the reference implementation")
    parser.add_argument("--methods", nargs="+", default=list(REFERENCES), choices=list(REFERENCES))
    parser.add_argument("--rounds", type=int, default=5, help="updates of each implementation that are measured")
    parser.add_argument("--size", type=int, default=128, help="rows and columns of a crop")
    parser.add_argument("--width", type=int, default=64, help="channels of the networks' first layers")
    parser.add_argument("--blocks", type=int, default=9, choices=(6, 9), help="residual blocks")
    parser.add_argument("--batch", type=int, default=1, help="pairs of crops per update")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--as-published", action="store_true", help="leave the discriminator of CUT's reference blurred"
    )
    arguments = parser.parse_args()
    if not (arguments.clone / "models" / "cut_model.py").is_file():
        parser.error(f"{arguments.clone}: holds no models/cut_model.py, a clone of the reference is needed")
    torch.set_num_threads(arguments.threads)
    sys.path.insert(0, str(arguments.clone))
    rows = []
    for method in arguments.methods:
        reference, ours = (statistics.median(seconds) for seconds in measure(method, arguments))
        rows.append(f"| {method} | {reference:.3f} | {ours:.3f} | {ours / reference:.2f} |")
    print("| method | reference, s | ours, s | ours / reference |\n|---|---|---|---|", *rows, sep="\n")


def measure(method: str, arguments: Namespace) -> tuple[list[float], list[float]]:
    """Seconds of each measured update of the reference and of ours."""
    torch.manual_seed(0)
    shape = (2, arguments.batch, 1, arguments.size, arguments.size)
    batches = [torch.rand(shape).mul(2).sub(1).unbind() for _ in range(4)]
    settings, ours = prepare_ours(method, arguments)
    reference, update = prepare_reference(method, settings, arguments.as_published, batches[0])
    compare_networks(method, reference, ours)
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(arguments.rounds + 1):
        source, target = batches[number % len(batches)]
        for step, times in zip((update, lambda s, t: ours.fit_step(as_batch(s, t))), seconds, strict=True):
            start = time.perf_counter()
            step(source, target)
            if number:  # the first update fills caches
                times.append(time.perf_counter() - start)
    return seconds


def prepare_ours(method: str, arguments: Namespace) -> tuple[TranslationSettings, LearnedMethod]:
    """This project's method as `translate fit` builds it, ready for its first update."""
    values = {
        "slices": 1,
        "batch_size": arguments.batch,
        "crop": [arguments.size, arguments.size],
        "width": arguments.width,
        "blocks": arguments.blocks,
        "discriminator_width": arguments.width,
        "discriminator_layers": DISCRIMINATOR_LAYERS,
    }
    settings: Any = build_settings(method, "paper", tuple(f"{key}={value}" for key, value in values.items()))
    # Networks never look at the record of a fit here; it cannot be left out.
    preparation = Preparation(
        volume=VolumeSettings(),
        spacing=(None, None, None),
        roi=None,
        source_histogram=(0.0, 1.0),
        target_histogram=(0.0, 1.0),
        labels={"background": 0},
        ignore=None,
        channel_name="MRI",
        atlas_sha256=None,
    )
    learner: Any = entry(method).load()(settings, preparation)
    learner.start_training(torch.device("cpu"))
    learner.train()
    return settings, learner


def prepare_reference(method: str, settings: Any, as_published: bool, first: tuple[Tensor, ...]) -> tuple[Any, Update]:
    """The reference's model with the same settings, ready for its first update."""
    options = reference_options(settings)
    module, name, _ = REFERENCES[method]
    with redirect_stdout(sys.stderr):  # it prints what it misses
        model = getattr(import_module(module), name)(options)
        networks = import_module("models.networks")
    if settings.antialias and not as_published:
        model.netD = networks.define_D(
            options.output_nc, options.ndf, options.netD, options.n_layers_D, options.normD, options.init_type,
            options.init_gain, True, options.gpu_ids, options,
        )  # fmt: skip
        model.optimizer_D = torch.optim.Adam(model.netD.parameters(), options.lr, (options.beta1, options.beta2))
    if method == "cut":
        # Makes the projector and its optimiser.
        model.data_dependent_initialize(as_inputs(*first))

    def update(source: Tensor, target: Tensor) -> None:
        model.set_input(as_inputs(source, target))
        model.optimize_parameters()

    return model, update


def reference_options(settings: Any) -> Namespace:
    """What the reference's models read from its command line."""
    common = Namespace(
        isTrain=True, gpu_ids=[], checkpoints_dir="", name="", preprocess="none", direction="AtoB",
        batch_size=settings.batch_size, input_nc=settings.slices, output_nc=settings.slices,
        netG=f"resnet_{settings.blocks}blocks", ngf=settings.width, normG="instance", no_dropout=True,
        netD="n_layers", ndf=settings.discriminator_width, n_layers_D=settings.discriminator_layers, normD="instance",
        no_antialias=not settings.antialias, no_antialias_up=not settings.antialias,
        init_type="normal", init_gain=0.02, gan_mode=settings.adversarial,
        lr=settings.learning_rate, beta1=0.5, beta2=0.999, amp=False,
    )  # fmt: skip
    if hasattr(settings, "patches"):
        own = Namespace(
            lambda_GAN=settings.lambda_adversarial, lambda_NCE=settings.lambda_nce, nce_idt=settings.identity,
            nce_layers="0,4,8,12,16", nce_includes_all_negatives_from_minibatch=False, netF="mlp_sample",
            netF_nc=settings.projector_width, nce_T=settings.temperature, num_patches=settings.patches,
            flip_equivariance=False, pool_size=0,
        )  # fmt: skip
    else:
        own = Namespace(
            lambda_A=settings.lambda_cycle, lambda_B=settings.lambda_cycle, lambda_identity=settings.lambda_identity,
            pool_size=settings.pool,
        )  # fmt: skip
    return Namespace(**vars(common), **vars(own))


def compare_networks(method: str, reference: Any, ours: Any) -> None:
    """Stop unless every network has as many parameters as its counterpart."""
    for their_name, our_name in REFERENCES[method][2].items():
        theirs, own = (
            sum(p.numel() for p in getattr(model, name).parameters())
            for model, name in ((reference, their_name), (ours, our_name))
        )
        if theirs != own:
            raise SystemExit(
                f"{method}: the reference's {their_name} has {theirs:,} parameters and our {our_name} {own:,}, equal"
                " numbers are needed"
            )


def as_inputs(source: Tensor, target: Tensor) -> dict[str, Any]:
    """A batch as the reference's loaders make it."""
    return {"A": source, "B": target, "A_paths": [], "B_paths": []}


def as_batch(source: Tensor, target: Tensor) -> Batch:
    """A batch as ours make it; neither method reads labels."""
    return Batch(source, target, torch.zeros(source.shape[0], *source.shape[2:], dtype=torch.long))


if __name__ == "__main__":
    main()
