"""The command line: one verb per stage, nothing but arguments and a lazy call."""

from __future__ import annotations

import logging
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import arg

from nnunet_ext.data import commands as dataset_commands
from nnunet_ext.errors import InputError, StageError
from nnunet_ext.flags import Several, flat, required
from nnunet_ext.koos import commands as koos_commands
from nnunet_ext.parsing import parse


def env(root: Path | None = None) -> None:
    """Print the export lines for nnU-Net's four variables.

    Use it as: eval "$(nnunet_ext env --root DIR)"

    Args:
        root: folder that holds raw, preprocessed and results; without it, what the variables say now, or ./nnunet.
    """
    from nnunet_ext.environment import export_lines

    print(export_lines(root))


def doctor() -> None:
    """Check versions, variables, trainers, device, disk and shared memory; say what to mend.

    Exit code 1 when something must be mended.
    """
    from nnunet_ext.doctor import examine

    fine = True
    for finding in examine():
        print(finding)
        fine &= finding.mend is None
    if not fine:
        raise SystemExit(1)


def configure(
    dataset: Annotated[str, arg(aliases=["-d"])],
    configuration: Annotated[str, arg(aliases=["-c"])],
    plans: Annotated[str, arg(aliases=["-p"])] = "nnUNetPlans",
    preset: str | None = None,
    assignments: Annotated[Several[str], arg(name="set", metavar="SECTION.KEY=VALUE ...")] = (),
) -> None:
    """Write settings into a preprocessed dataset's plans, and print what is set now.

    Args:
        dataset: id or name of the dataset.
        configuration: 2d, 3d_fullres, ...
        plans: name of the plans.
        preset: a ready-made size; `cpu` learns something real on two cores.
        assignments: settings; without a section, KEY=VALUE is one of `schedule`. Values are JSON, or else text.
    """
    from nnunet_ext.training.configure import configure as write
    from nnunet_ext.training.configure import summary

    target, now = write(dataset, configuration, plans, preset, flat(assignments))
    print(f"{target}, {configuration}:\n{summary(now)}")


def evaluate(
    predictions: Annotated[Path, tyro.conf.Positional, arg(metavar="PRED")],
    truth: Annotated[Path, tyro.conf.Positional, arg(metavar="GT")],
    against: Annotated[Several[Path], arg(metavar="FOLDER ...")] = (),
    names: Annotated[Several[str], arg(metavar="NAME ...")] = (),
    labels: Path | None = None,
    label: Annotated[Several[str], arg(metavar="NAME=VALUE ...")] = (),
    subject_pattern: str | None = None,
    partial: bool = False,
    images: Path | None = None,
    csv: Path | None = None,
    json: Path | None = None,
    report: Path | None = None,
    jobs: Annotated[int, arg(aliases=["-j"])] = 1,
    seed: int = 0,
) -> None:
    """Score masks: Dice, HD95 and ASSD in mm per case and structure, intervals and paired tests.

    Prints the summary; --csv, --json and --report write everything. The report is one self-contained page.

    Args:
        predictions: folder of masks, one file per case.
        truth: folder of ground truth masks with the same file names (endings may differ).
        against: more folders of masks of the same cases, each compared with PRED by paired tests.
        names: what to call the folders in tables, PRED first; their own names by default.
        labels: dataset.json that names the structures; by default the one beside GT or in PRED.
        label: NAME=VALUE or NAME=VALUE,VALUE ...: score only these (`ignore=VALUE` leaves voxels out).
        subject_pattern: regular expression for the subject in a case name ('patient[0-9]+'), where dataset.json does
            not record it; a subject's cases are resampled together and count as one pair in the tests.
        partial: score only the cases that every folder has a mask for, instead of refusing.
        images: folder of the scans for the report's pictures; by default imagesTr beside a GT called labelsTr (or Ts).
        csv: one row per folder, case and structure.
        json: summaries, tests and every score.
        report: the page to write.
        jobs: cases scored at a time.
        seed: of the bootstrap.
    """
    from nnunet_ext.evaluation import command

    command.run(
        [predictions, *flat(against)],
        truth,
        names=flat(names),
        dataset_json=labels,
        label=flat(label),
        subject_pattern=subject_pattern,
        partial=partial,
        images=images,
        csv=csv,
        json=json,
        report=report,
        jobs=jobs,
        seed=seed,
    )


def demo(root: Path = Path("demo"), koos: bool = False) -> None:
    """The whole story on synthetic hearts, in minutes on a CPU, ending in a report.

    Args:
        root: folder for everything it makes; running it again goes on where it stopped.
        koos: grade synthetic tumours as well, a few minutes more.
    """
    from nnunet_ext.demo import run

    run(root, koos)


def translate_fit(
    source: Annotated[str, arg(aliases=["-s"])],
    target: Annotated[str, arg(aliases=["-t"])],
    method: Annotated[str, arg(aliases=["-m"])],
    output: Annotated[Path | None, arg(aliases=["-o"])] = None,
    preset: str = "paper",
    settings: Annotated[Several[str], arg(name="set", metavar="KEY=VALUE ...")] = (),
    device: str | None = None,
) -> None:
    """Fit a translation from a labelled source to an unlabelled target; run it again to continue.

    Args:
        source: id or name of a dataset, or DATASET:DOMAIN; its labelled cases.
        target: the same for the target; its labels are never read.
        method: histogram, cyclegan, cut, qsattn, tanq or msfnet.
        output: model folder; nnUNet_results/translation/SOURCE__TARGET/METHOD without it.
        preset: paper, or cpu for two cores.
        settings: settings, their values as JSON or text.
        device: cpu, cuda, cuda:1, ...
    """
    from translation.fit import fit

    print(fit(source, target, method, output=output, preset=preset, overrides=flat(settings), device=device))


def translate_apply(
    source: Annotated[str, arg(aliases=["-s"])],
    views: str,
    dataset: Annotated[str, arg(aliases=["-d"])],
    target: Annotated[str | None, arg(aliases=["-t"])] = None,
    keep_source: bool = False,
    force: bool = False,
    overwrite: bool = False,
    device: str | None = None,
) -> None:
    """Translate the labelled cases of a source and write them as a dataset in the look of the target.

    Args:
        source: id or name of a dataset, or DATASET:DOMAIN.
        views: methods fitted to the target (cyclegan,tanq), or model folders; a case is written for each.
        dataset: id or full name of the dataset to write.
        target: what the methods were fitted to.
        keep_source: also write the source's own images.
        force: write even where structures were washed out.
        overwrite: replace a dataset of that name that has other content.
        device: cpu, cuda, cuda:1, ...
    """
    from translation.apply import apply

    print(
        apply(
            source,
            views,
            dataset,
            target=target,
            keep_source=keep_source,
            force=force,
            overwrite=overwrite,
            device=device,
        )
    )


def predict(
    scans: Annotated[Path, arg(aliases=["-i"], name="input")],
    target: Annotated[Path, arg(aliases=["-o"], name="output-folder")],
    model: Annotated[Several[Path], arg(aliases=["-m"], metavar="MODEL ...")],
    folds: Annotated[Several[str], arg(aliases=["-f"], metavar="FOLD ...")] = (),
    checkpoint: str = "checkpoint_final.pth",
    device: str | None = None,
    fast: bool = False,
    pattern: str | None = None,
    output: str | None = None,
    again: bool = False,
    backend: Literal["loky", "dask", "ray"] = "loky",
    jobs: int = 1,
) -> None:
    """Predict every scan of a folder with one resident model; a bad scan costs only itself.

    A package with a Koos model also writes predictions.csv and predictions.json, the grades, beside the masks.

    Args:
        scans: folder of scans (NAME_0000.nii.gz, ... or, for a model of one channel, any name).
        target: folder of the masks, made if missing; cases whose mask is there are skipped.
        model: a model package (.tar.gz or unpacked), or one or several trained model folders (averaged).
        folds: folds to average; by default all that are there.
        checkpoint: file name of the checkpoints in trained model folders.
        device: cpu, cuda or cuda:N; by default cuda where there is one.
        fast: no mirroring and a larger step: several times as fast, for 0.02 of mean Dice in our measurement on ACDC.
        pattern: file names to take, such as {case}_hrT2.nii.gz.
        output: names of the masks, such as {case}_Label.nii.gz.
        again: predict cases whose mask is there, too.
        backend: processes here, a Dask cluster or a Ray cluster.
        jobs: processes, each with a resident model; -1 for every core.
    """
    from nnunet_ext.inference.command import Request
    from nnunet_ext.inference.command import predict as run

    models = required("-m", model, "a model package or a trained model folder")
    request = Request(models, flat(folds), checkpoint, device, fast)
    print(run(request, scans, target, pattern, output, again, backend, jobs))


def package(
    models: Annotated[
        tuple[Path, ...], tyro.conf.Positional, arg(metavar="MODEL ...", help_behavior_hint="(required)")
    ],
    target: Annotated[Path, arg(aliases=["-o"], name="output")],
    folds: Annotated[Several[str], arg(aliases=["-f"], metavar="FOLD ...")] = (),
    checkpoint: str = "checkpoint_final.pth",
    sockets: Path | None = None,
    postprocessing: Path | None = None,
    koos: Path | None = None,
) -> None:
    """Pack trained models into what the container loads: weights without a pickle, plans, checksums.

    Args:
        models: one or several trained model folders (TRAINER__PLANS__CONFIGURATION); several are averaged.
        target: the package, a name ending in .tar.gz.
        folds: folds to pack; by default all that are there.
        checkpoint: file name of the checkpoints.
        sockets: JSON that says which socket feeds which channel and where outputs go.
        postprocessing: nnU-Net's postprocessing.json or .pkl; by default the one in the model folder, if any.
        koos: folder that `koos fit` wrote: the container then grades every scan with the mask that it found.
    """
    from nnunet_ext.inference.command import package as run

    print(run(models, target, flat(folds), checkpoint, sockets, postprocessing, koos))


def selftrain(
    dataset: Annotated[str, arg(aliases=["-d"])],
    target: Annotated[str, arg(aliases=["-t"])],
    into: int,
    rounds: int = 2,
    configuration: Annotated[Several[str], arg(aliases=["-c"], metavar="CONFIGURATION ...")] = (),
    trainer: Annotated[str, arg(aliases=["-tr"])] = "nnUNetTrainer",
    plans: Annotated[str, arg(aliases=["-p"])] = "nnUNetPlans",
    planner: Annotated[str, arg(aliases=["-pl"])] = "ExperimentPlanner",
    fold: str = "all",
    preset: str | None = None,
    settings: Annotated[Several[str], arg(name="set", metavar="SECTION.KEY=VALUE ...")] = (),
    confidence: float = 0.0,
    components: bool = False,
    complete: bool = False,
    validation: str | None = None,
    device: str | None = None,
) -> None:
    """Train on a pseudo-target dataset, label real target scans with the model, retrain on both, and again.

    Args:
        dataset: id or name of what `translate apply` wrote.
        target: the real scans, a dataset or DATASET:DOMAIN; their labels are never read.
        into: dataset id of the first round; each further round takes the next id.
        rounds: how often to predict, pool and retrain.
        configuration: 2d (the default), 3d_fullres, ...; the probabilities of several are averaged.
        trainer: any of nnU-Net's or nnunet_ext's; nnUNetTrainerBaseline is nnU-Net's with a schedule from the settings.
        plans: name of the plans.
        planner: nnU-Net's class that makes the plans where there are none: nnUNetPlannerResEncM for
            -p nnUNetResEncUNetMPlans.
        fold: 0 to 4, or all.
        preset: as for `configure`; nnU-Net's own trainers take its network, not its schedule.
        settings: as for `configure`; they are of nnunet_ext's trainers.
        confidence: leave out a scan when a structure's mean probability is below this.
        components: keep only the largest connected component of each structure.
        complete: leave out a scan in which a structure was not found.
        validation: labelled scans to choose the best round on; the last round without it.
        device: cpu or cuda; the GPU where there is one.
    """
    from translation.pseudo_labels import Filters
    from translation.selftrain import Training
    from translation.selftrain import selftrain as run

    configurations = flat(configuration) or ("2d",)
    training = Training(configurations, trainer, plans, fold, preset, flat(settings), device, planner)
    filters = Filters(confidence, components, complete)
    print(run(dataset, target, into, rounds=rounds, training=training, filters=filters, validation=validation))


def register(
    dataset: Annotated[str, arg(aliases=["-d"])],
    fold: Annotated[str, arg(aliases=["-f"])] = "all",
    transform: Literal["affine", "deformable"] = "deformable",
    scheme: Literal["pairs", "template"] = "pairs",
    backend: Literal["loky", "dask", "ray"] = "loky",
    jobs: Annotated[int, arg(aliases=["-j"])] = 1,
    assignments: Annotated[Several[str], arg(name="set", metavar="KEY=VALUE ...")] = (),
    report: Path | None = None,
) -> None:
    """Register every training case to the labelled ones, and keep the transforms that CCT-R needs.

    Can be interrupted and run again, also twice at once: finished pairs are kept. Prints the store's folder.

    Args:
        dataset: id or name of the dataset.
        fold: the training fold whose labelled cases propagate their labels; `all` takes every labelled case.
        transform: deformable adds a displacement field to the affine map.
        scheme: every case with every labelled one, or all through one labelled template (fewer, less accurate).
        backend: processes here, a Dask cluster or a Ray cluster.
        jobs: cases at a time, one core each; -1 for every core.
        assignments: other settings of nnunet_ext.registration.settings; values are JSON, or else text.
        report: JSON file for scores, seconds and failures of every pair.
    """
    from nnunet_ext.registration import command

    command.run(dataset, fold, transform, scheme, backend, jobs, flat(assignments), report)


# A verb is a function, or a table of verbs of its own (`nnunet_ext dataset acdc`).
VERBS: dict[str, Any] = {
    "env": env,
    "doctor": doctor,
    "demo": demo,
    "dataset": dataset_commands.VERBS,
    "configure": configure,
    "register": register,
    "predict": predict,
    "evaluate": evaluate,
    "package": package,
    "translate": {"fit": translate_fit, "apply": translate_apply},
    "selftrain": selftrain,
    "koos": koos_commands.VERBS,
}


def main(arguments: list[str] | None = None) -> None:
    """Run one verb. Exit codes: 0 done, 2 the user's input is wrong, 1 anything else."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # at its first start it tells of its fonts
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # it tells its number of threads whenever it is imported
    if isinstance(sys.stdout, TextIOWrapper):
        # In a log or a pipe, too, a long stage's lines are to be seen while it runs.
        sys.stdout.reconfigure(line_buffering=True)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    prog, verbs = "nnunet_ext", VERBS
    while arguments and isinstance(verbs.get(arguments[0]), dict):
        verbs = verbs[arguments[0]]
        prog += f" {arguments.pop(0)}"
    try:
        parse(verbs, prog, arguments)()
    except InputError as error:
        print(f"nnunet_ext: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except StageError as error:
        print(f"nnunet_ext: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("nnunet_ext: interrupted", file=sys.stderr)
        raise SystemExit(1) from None
