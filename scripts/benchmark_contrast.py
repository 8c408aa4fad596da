"""Do the contrastive terms part the classes? Only their projectors learn, on features of a finished CTS training.

    python scripts/benchmark_contrast.py FOLD_FOLDER -d 53 -p PLANS --set MCSCv2.bank=60000

FOLD_FOLDER is that of a training by nnUNetTrainerCTS with these plans. The networks are frozen, so features stay the
same and what is seen is the term's doing. Printed are the loss of the last step and, per scale, the largest cosine
between the mean projected features of two classes in a batch that was not learnt from: 1 means that two classes lie in
the same direction.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

METHODS = ("MCSC", "MCSCv2")
BATCHES = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path, help="the fold's folder of a finished training by nnUNetTrainerCTS")
    parser.add_argument("-d", required=True, help="id or name of the dataset")
    parser.add_argument("-c", default="2d", help="configuration")
    parser.add_argument("-f", type=int, default=0, help="fold")
    parser.add_argument("-p", default="nnUNetPlans", help="plans of that training")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--set", nargs="*", default=[], help="other settings of a method, METHOD.key=value")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as results:
        os.environ |= {"nnUNet_results": results, "nnUNet_n_proc_DA": "0", "nnUNet_compile": "false"}
        trainer, seen = finished(arguments)
    print("| method | settings | loss | largest cosine, per scale |\n|---|---|---|---|")
    for method in arguments.methods:
        changes = [word.split(".", 1)[1] for word in arguments.set if word.startswith(f"{method}.")]
        for change in ["", *changes]:
            loss, cosines = learn(trainer, method, change, seen, arguments.steps)
            print(f"| {method} | {change} | {loss:.2f} | {', '.join(f'{c:.2f}' for c in cosines)} |", flush=True)


def finished(arguments: argparse.Namespace) -> tuple[Any, list[Any]]:
    """A trainer with the networks of the finished training, and what they make of some batches."""
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunet_ext.training.contrast import cross_labelled

    trainer: Any = get_trainer_from_args(
        arguments.d, arguments.c, arguments.f, "nnUNetTrainerMCSC", arguments.p, False, torch.device("cpu")
    )
    trainer.initialize()
    final = torch.load(arguments.trained / "checkpoint_final.pth", map_location="cpu", weights_only=False)
    trainer.pair.load_state_dict(final["nnunet_ext"]["training_network"])
    training, validation = trainer.get_dataloaders()
    seen = []
    with torch.no_grad():
        for _ in range(BATCHES):
            images, target, _ = trainer.to_device(next(training))
            outputs = trainer.network(images)
            features = outputs[0].features, outputs[1].features
            logits = outputs[0].logits[0], outputs[1].logits[0]
            seen.append(cross_labelled(features, logits, target[0][:, 0], trainer.classes))
    training.close()
    validation.close()
    return trainer, seen


def learn(trainer: Any, method: str, change: str, seen: list[Any], steps: int) -> tuple[float, list[float]]:
    """The last loss, and per scale the largest cosine between two classes in the first batch, which is kept aside."""
    from nnunet_ext.training.contrast import draw_pool, normalised
    from nnunet_ext.training.cross_teaching import MCSCTrainer, MCSCv2Trainer
    from nnunet_ext.training.settings import assignment, read_section

    kind: Any = {"MCSC": MCSCTrainer, "MCSCv2": MCSCv2Trainer}[method]
    planned = trainer.configuration_manager.configuration["nnunet_ext"].get(method, {})
    changed = dict([assignment(change)]) if change else {}
    settings: Any = read_section({method: planned | changed}, method, kind.Settings, "--set")
    torch.manual_seed(0)
    contrast = kind.contrast_class(settings, trainer.pair.channels, trainer.classes)
    optimizer = torch.optim.AdamW(contrast.parameters(), lr=settings.lr_plans, weight_decay=settings.weight_decay)
    for step in range(steps):
        loss, _ = contrast(seen[1 + step % (len(seen) - 1)], step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    cosines = []
    with torch.no_grad():
        for scale in range(len(settings.scales)):
            pool = draw_pool(seen[0], scale, 2048, contrast.projectors)
            means = torch.stack([pool.features[pool.labels == c].mean(0) for c in pool.labels.unique()])
            cosines.append(float((normalised(means) @ normalised(means).T).fill_diagonal_(-1).max()))
    return float(loss.detach()), cosines


if __name__ == "__main__":
    main()
