"""Seconds per training step of CS-Unet beside Swin-Unet, in turns on the same machine.

    python scripts/benchmark_networks.py --size 128 128 --batch 8 --embed-dim 48 --channels 1 --classes 4
    python scripts/benchmark_networks.py --size 224 224 --batch 2

A step is forward, cross-entropy and backward with the regularisation each network trains with. The networks take
turns step by step, so that other load on the machine falls on both; the medians and their ratio are printed. With
`--cpu-time` the clock counts this process' own processor seconds, for a machine that is shared.
"""

from __future__ import annotations

import statistics
import time
from typing import Annotated

import torch
import tyro
from torch.nn import functional as F

from nnunet_ext.networks.swin import SwinUNet, csunet, swin_unet

NETWORKS = {"Swin-Unet": swin_unet, "CS-Unet": csunet}


def step(network: SwinUNet, image: torch.Tensor, target: torch.Tensor) -> None:
    network.zero_grad(set_to_none=True)
    F.cross_entropy(network(image), target).backward()


def benchmark(
    size: tuple[int, ...] = (128, 128),
    batch: int = 8,
    embed_dim: int = 48,
    channels: int = 1,
    classes: int = 4,
    patch_strides: tuple[int, ...] = (4,),
    window: int = 7,
    rounds: int = 15,
    warm_up: int = 2,
    threads: int = 2,
    cpu_time: bool = False,
    device: Annotated[str, tyro.conf.arg(help="cpu or cuda")] = "cpu",
    compile: bool = False,
    profile: bool = False,
) -> None:
    """Time both networks and print the medians and the ratio.

    Args:
        size: voxels per axis, two or three axes.
        batch: images per step.
        embed_dim: channels at the first resolution.
        channels: channels of the image.
        classes: classes, background included.
        patch_strides: voxels per token, one number or one per axis.
        window: largest window, tokens per axis.
        rounds: timed steps of each network.
        warm_up: untimed steps of each network before.
        threads: processor threads.
        cpu_time: count processor seconds instead of wall-clock seconds.
        compile: run through torch.compile.
        profile: also print where one step of each network spends its time.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    strides = patch_strides * len(size) if len(patch_strides) == 1 else patch_strides
    image = torch.randn(batch, channels, *size, device=device)
    target = torch.randint(classes, (batch, *size), device=device)
    networks = {}
    for name, build in NETWORKS.items():
        network = build(
            channels, classes, len(size), embed_dim=embed_dim, patch_strides=strides, window_size=window
        ).to(device)
        networks[name] = torch.compile(network) if compile else network
    clock = time.process_time if cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(warm_up + rounds):
        for name, network in networks.items():
            start = clock()
            step(network, image, target)
            if device != "cpu":
                torch.cuda.synchronize()
            if turn >= warm_up:
                seconds[name].append(clock() - start)
    print(f"batch {batch}, size {size}, embed_dim {embed_dim}, {threads} threads, torch {torch.__version__}")
    for name, network in networks.items():
        parameters = sum(p.numel() for p in network.parameters())
        low, *_, high = sorted(seconds[name])
        median = statistics.median(seconds[name])
        print(f"{name:10s} {parameters:>11,} parameters  {median:.4f} s/step (fastest {low:.4f}, slowest {high:.4f})")
    swin, cs = (statistics.median(times) for times in seconds.values())
    paired = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
    print(f"CS-Unet / Swin-Unet: {cs / swin:.3f} of medians, {paired:.3f} median of paired ratios")
    if profile:
        for name, network in networks.items():
            with torch.profiler.profile() as profiler:
                step(network, image, target)
            print(name, profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=18), sep="\n")


if __name__ == "__main__":
    tyro.cli(benchmark)
