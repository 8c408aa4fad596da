"""The adaptation table of BENCHMARKS.md: ACDC (cine, labelled) -> MS-CMRSeg LGE (unlabelled) at the CPU preset.

    python scripts/benchmark_adaptation.py ACDC_FOLDER MSCMR_LGE_FOLDER --root WORK_FOLDER

Source only, CBAL with its terms added one at a time, AccSeg-Net with and without its anatomy constraints and patch
contrast; equal updates, patch and batch for all. `val` of the target is only scored. Interrupted, it goes on where it
was when started again: a training continues from its checkpoint, and rows that are finished are kept in
`benchmarks/adaptation/`. `--only "CBAL *" AccSeg` runs the rows of these names. `--beside NAME=FOLDER` puts
predictions of the same cases that other methods of the project made, such as a translation followed by a training, on
the same report page.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tables import BENCHMARKS, HEAD, add_only, figures, fill_table, last_terms, picked, scored, set_words

from nnunet_ext.evaluation.result import MEAN
from nnunet_ext.files import read_json, write_json
from nnunet_ext.workspace import Workspace

ACDC, MSCMR, MERGED = 27, 30, 31
DATASET = "Dataset031_ACDC_to_MSCMR_LGE"
TERMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("source views", ("source_views",)),
    ("entropy", ("entropy_weight",)),
    ("contrast", ("contrast_weight", "region_weight")),
    ("boundary", ("boundary_weight", "distance_weight")),
    ("adversary", ("adversarial_weight",)),
)
WITHOUT: Mapping[str, dict[str, Any]] = {
    "": {},
    " -MIND": {"mind_weight": 0},
    " -CC": {"correlation_weight": 0},
    " -MIND -CC": {"mind_weight": 0, "correlation_weight": 0},
    " -PCT": {"contrast_weight": 0},
    " DuSEUNet": {"segmenter": "DuSEUNet"},
}


def variants() -> dict[str, tuple[str, dict[str, Any]]]:
    """Row name -> method and its settings."""
    rows: dict[str, tuple[str, dict[str, Any]]] = {"source only": ("Baseline", {})}
    keys = [key for _, several in TERMS for key in several]
    for count, (name, _) in enumerate(TERMS, start=1):
        on = {key for _, several in TERMS[:count] for key in several}
        rows[f"CBAL +{name}"] = ("CBAL", {key: 0 for key in keys if key not in on})
    rows["CBAL as printed"] = ("CBAL", {"source_views": 0})
    rows |= {f"AccSeg{name}": ("AccSeg", settings) for name, settings in WITHOUT.items()}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("acdc", type=Path, help="folder with patientNNN folders and split.json")
    parser.add_argument("mscmr", type=Path, help="folder with train/ and val/")
    parser.add_argument("--root", type=Path, required=True, help="folder for nnU-Net's data; continued if it exists")
    parser.add_argument("--device", default="cpu")
    add_only(parser)
    parser.add_argument("--set", nargs="*", default=[], help="settings on top of the CPU preset, section.key=value")
    parser.add_argument("--beside", nargs="*", default=[], help="NAME=FOLDER with predictions for the report page")
    arguments = parser.parse_args()
    space = Workspace(arguments.root)
    prepare(space, arguments)
    chosen = {name: how for name, how in variants().items() if picked(name, arguments.only)}
    rows = [
        (name.replace(" ", "_"), partial(measure, space, arguments.device, name, *how)) for name, how in chosen.items()
    ]
    table = fill_table(BENCHMARKS / "adaptation", rows, {"--set": arguments.set})
    show(table)
    others = dict(word.split("=", 1) for word in arguments.beside)
    folders = {row["title"]: predictions(space, row["title"], row["method"]) for row in table} | others
    # Rows may come from an earlier run elsewhere: only predictions that are here can be drawn.
    here = {name: Path(folder) for name, folder in folders.items() if Path(folder).is_dir()}
    for name in folders.keys() - here.keys():
        print(f"not on the report page, no predictions are here: {name}")
    compare(space, here)


def prepare(space: Workspace, arguments: argparse.Namespace) -> None:
    """Write both datasets and the merged one, plan, preprocess and configure it, each once."""
    split = arguments.acdc / "split.json"
    space.once("source", "nnunet_ext", "dataset", "acdc", arguments.acdc, "-d", ACDC, "--split", split)
    space.once("target", "nnunet_ext", "dataset", "mscmr", arguments.mscmr, "-d", MSCMR)
    space.once("merge", "nnunet_ext", "dataset", "merge", "-d", MERGED, "--source", ACDC, "--target", MSCMR)
    space.once("plan", "nnUNetv2_plan_and_preprocess", "-d", MERGED, "-c", "2d", "-np", 2, "-npfp", 2)
    space.once(
        "configure", "nnunet_ext", "configure", "-d", MERGED, "-c", "2d", "--preset", "cpu", *set_words(arguments.set)
    )


def plans_name(title: str) -> str:
    """The name of a row's own plans, so that all results stay side by side."""
    return "nnUNetPlans" + "".join(part.capitalize() for part in title.replace("-", "no ").replace("+", "").split())


def predictions(space: Workspace, title: str, method: str) -> Path:
    """Where nnU-Net leaves a row's validation predictions."""
    return (
        space.root / "results" / DATASET / f"nnUNetTrainer{method}__{plans_name(title)}__2d" / "fold_0" / "validation"
    )


def measure(space: Workspace, device: str, title: str, method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train one row and score its predictions of the target's validation cases."""
    folder, plans = space.root / "preprocessed" / DATASET, plans_name(title)
    content = read_json(folder / "nnUNetPlans.json")
    content["plans_name"] = plans
    if settings:
        content["configurations"]["2d"]["nnunet_ext"].setdefault(method, {}).update(settings)
    write_json(folder / f"{plans}.json", content)
    found = predictions(space, title, method)
    resumed = any(found.parent.glob("checkpoint_*.pth"))
    start = time.monotonic()
    space.run(
        "nnUNetv2_train", MERGED, "2d", 0, "-tr", f"nnUNetTrainer{method}", "-p", plans, "-device", device,
        *(["--c"] if resumed else []),
    )  # fmt: skip
    minutes = (time.monotonic() - start) / 60
    scores = space.root / f"{plans}.json"
    truth = space.root / "raw" / DATASET / "labelsTr"
    space.run("nnunet_ext", "evaluate", found, truth, "--partial", "--json", scores)
    run = {"minutes": minutes, "resumed": resumed, "terms": last_terms(found.parent)}
    return {**scored(scores), "title": title, "method": method, "settings": settings, **run}


def show(rows: list[dict[str, Any]]) -> None:
    """One line for each row, with the gain over source only where that is there."""
    base = next((row["dice"][MEAN] for row in rows if row["method"] == "Baseline"), None)
    print(f"| method | gain | {HEAD} | minutes |\n|---|---|---|---|---|---|")
    for row in rows:
        gain = "" if base is None else f"{100 * (row['dice'][MEAN] - base):+.1f}"
        print(f"| {row['title']} | {gain} | {figures(row)} | {row['minutes']:.0f} |")


def compare(space: Workspace, folders: dict[str, Path]) -> None:
    """One report page for all methods, under their titles."""
    if not folders:
        return
    first, *others = folders.values()
    truth, report = space.root / "raw" / DATASET / "labelsTr", space.root / "adaptation.html"
    against = ("--against", *others) if others else ()
    space.run(
        "nnunet_ext", "evaluate", first, truth, *against, "--names", *folders, "--partial", "--report", report
    )  # fmt: skip
    print(f"report: {report}")


if __name__ == "__main__":
    main()
