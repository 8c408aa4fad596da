"""The verbs of `nnunet_ext koos`: arguments and a lazy call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from nnunet_ext.flags import Several, flat, required


def fit(
    dataset: Annotated[Several[str], arg(aliases=["-d"], metavar="DATASET ...")],
    grades: Annotated[Path, arg(aliases=["-g"])],
    output: Annotated[Path, arg(aliases=["-o"])],
    encoder: str,
    masks: Path | None = None,
    tumour: Annotated[Several[str], arg(metavar="LABEL ...")] = (),
    columns: tuple[str, str] = ("case", "class"),
    folds: int = 0,
    preset: str = "paper",
    assignments: Annotated[Several[str], arg(name="set", metavar="KEY=VALUE ...")] = (),
    pretraining: bool = True,
    frozen: bool = True,
    device: str | None = None,
) -> None:
    """Fit MSF-Koos-Net: contrastive pre-training, then a head on frozen features; run it again to continue.

    Cases of the datasets that the CSV does not grade take part in the pre-training.

    Args:
        dataset: ids or names of raw datasets of one channel; `translate apply --keep-source` writes both modalities.
        grades: CSV with a header and a line per case (or subject).
        output: model folder.
        encoder: folder or checkpoint of a fitted MSF-Net, or `none` for a random one.
        masks: folder of masks named after the cases, such as `predict` writes; the datasets' labels without it.
        tumour: names of the labels that make up the tumour; not needed where there is only one.
        columns: names of the CSV's columns of cases and grades.
        folds: cross-validate by subject in so many parts first; predictions, scores and a report are kept.
        preset: paper, or cpu for two cores.
        assignments: settings, values as JSON or text.
        pretraining: --no-pretraining: the paper's ablation, E_H learns together with the head.
        frozen: --no-frozen: the paper's ablation, both encoders learn on with the head.
        device: cpu, cuda, cuda:1, ...
    """
    from nnunet_ext.device import pick_device
    from nnunet_ext.koos.fit import fit as run
    from nnunet_ext.koos.settings import build_settings

    flags = {k: False for k, on in (("pretraining", pretraining), ("frozen", frozen)) if not on}
    print(
        run(
            required("-d", dataset, "the id or name of a raw dataset"),
            grades,
            output,
            encoder,
            build_settings(preset, flat(assignments), **flags),
            masks=masks,
            tumour=flat(tumour),
            columns=columns,
            folds=folds,
            device=pick_device(device),
        )
    )


def predict(
    scans: Annotated[Path, arg(aliases=["-i"], name="input")],
    masks: Path,
    model: Annotated[Path, arg(aliases=["-m"])],
    output: Annotated[Path, arg(aliases=["-o"])],
    pattern: str | None = None,
    device: str | None = None,
) -> None:
    """Grade a folder of scans with their masks: a CSV in the challenge's form, and a JSON with probabilities.

    Args:
        scans: folder of scans (CASE_0000.nii.gz or CASE.nii.gz).
        masks: folder of label maps named CASE, such as `predict` writes. One without tumour gets the lowest class.
        model: folder that `koos fit` wrote, or its koos.pth.
        output: the CSV; the JSON goes beside it.
        pattern: file names to take, such as {case}_hrT2.nii.gz.
        device: cpu, cuda, cuda:1, ...
    """
    from nnunet_ext.device import pick_device
    from nnunet_ext.koos.model import load_model
    from nnunet_ext.koos.predict import predict_folder

    graded = predict_folder(scans, masks, load_model(model, pick_device(device)), output, pattern)
    print(f"{graded} cases in {output} and {output.with_suffix('.json').name}")


def score(
    predictions: Annotated[Path, Positional, arg(metavar="PRED.csv")],
    truth: Annotated[Path, Positional, arg(metavar="GT.csv")],
    classes: Annotated[Several[int], arg(metavar="GRADE ...")] = (),
    json: Path | None = None,
    report: Path | None = None,
) -> None:
    """Score grades: MA-MAE (the challenge's), MA-MSE and the confusion matrix.

    Args:
        predictions: CSV with the columns case and class.
        truth: the same with the true grades.
        classes: the grades there are; 1 2 3 4 by default.
        json: file for the scores.
        report: page to write.
    """
    from nnunet_ext.koos.report import write_scores
    from nnunet_ext.koos.scores import read_and_score

    scores = read_and_score(predictions, truth, tuple(sorted(set(flat(classes)))) or (1, 2, 3, 4))
    write_scores(scores, None, json, report)
    best, constant = scores.constant()
    low, high = scores.interval()
    print(
        f"MA-MAE {scores.ma_mae:.4f} (95 % interval {low:.3f} to {high:.3f}), MA-MSE {scores.ma_mse:.4f}, "
        f"accuracy {scores.accuracy:.3f}, {len(scores.truth)} cases; always {best}: MA-MAE {constant:.4f}"
    )
    for true, row in zip(scores.classes, scores.confusion.tolist(), strict=True):
        print(f"true {true}: " + "  ".join(f"{n:4d} as {c}" for c, n in zip(scores.classes, row, strict=True)))


VERBS: dict[str, Callable[..., Any]] = {"fit": fit, "predict": predict, "score": score}
