"""The verbs of `nnunet_ext dataset`: arguments and a lazy call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from nnunet_ext.errors import InputError
from nnunet_ext.flags import Several, flat

if TYPE_CHECKING:
    from nnunet_ext.data.layouts.layout import Layout


@dataclass
class Target:
    """Where a dataset goes and which of its cases count as labelled."""

    dataset: Annotated[str, arg(aliases=["-d"])]
    """Id or full name (Dataset027_ACDC) of the nnU-Net dataset to write."""
    labelled: str | None = None
    """FILE or FILE:KEY with the labelled cases or subjects (text with one per line, or a JSON list); all others become
    unlabelled and their labels are not read. Without it every case that has a label is labelled."""
    split: Path | None = None
    """JSON file with train and val lists of cases or subjects. It becomes fold 0; its val cases stay labelled."""
    missing_labels: bool = False
    """Take an image without a label as an unlabelled case instead of a mistake."""
    overwrite: bool = False
    """Replace a dataset of that name that has other content."""


Flat = Annotated[Target, arg(name="")]
Source = Annotated[Path, arg(metavar="SOURCE")]


def folder(
    source: Positional[Source],
    target: Flat,
    label: Annotated[Several[str], arg(metavar="NAME=VALUE ...")],
    channel: Annotated[Several[str], arg(metavar="NAME ...")],
    images: str | None = None,
    labels: str | None = None,
    domain: str = "",
) -> None:
    """A folder with images/ and labels/ (or imagesTr/ and labelsTr/) -> a raw nnU-Net dataset.

    Channels of one case are CASE_0000, CASE_0001, ...; its label is named CASE.

    Args:
        source: folder above images and labels.
        label: NAME=VALUE of every structure.
        channel: names of the channels, in order ("CT" tells nnU-Net that values are Hounsfield units).
        images: name of the image folder, if it is another.
        labels: name of the label folder, if it is another.
        domain: modality or site to record for every case.
    """
    from nnunet_ext.data.layouts import folder as layout

    _convert(layout.find(source, _label_values(flat(label)), flat(channel), images, labels, domain), target)


def acdc(source: Positional[Source], target: Flat) -> None:
    """ACDC (cine heart MR, MICCAI 2017) -> a raw nnU-Net dataset; RV, MYO, LV.

    Args:
        source: folder with patientNNN folders, or the one above training/.
    """
    from nnunet_ext.data.layouts import acdc as layout

    _convert(layout.find(source), target)


def mscmr(source: Positional[Source], target: Flat, sequence: Literal["LGE", "C0", "T2"] = "LGE") -> None:
    """MS-CMRSeg 2019 (LGE, bSSFP or T2 heart MR) -> a raw nnU-Net dataset; RV, MYO, LV.

    Args:
        source: folder with the scans, anywhere below it. Folders named train and val become fold 0.
        sequence: which sequence to take.
    """
    from nnunet_ext.data.layouts import mscmr as layout

    _convert(layout.find(source, sequence), target)


def crossmoda(
    source: Positional[Source],
    target: Flat,
    edition: Literal["2021", "2022", "2023"] | None = None,
    modality: Literal["both", "ceT1", "hrT2"] = "both",
    whole_tumour: bool = False,
) -> None:
    """CrossMoDA 2021, 2022 or 2023 (labelled ceT1, unlabelled T2 brain MR) -> a raw nnU-Net dataset.

    Args:
        source: folder above the training folders.
        edition: which year's labels; without it the file names tell.
        modality: ceT1 (source), hrT2 (target), or both in one dataset with their domains.
        whole_tumour: join the intra- and extra-meatal parts of 2023 to one tumour.
    """
    from nnunet_ext.data.layouts import crossmoda as layout

    _convert(layout.find(source, edition, modality, whole_tumour), target)


def mmwhs(
    source: Positional[Source],
    target: Flat,
    modality: Literal["both", "ct", "mr"] = "both",
    structures: Literal["all", "four"] = "all",
) -> None:
    """MM-WHS 2017 (whole heart, CT and MR) -> a raw nnU-Net dataset.

    Args:
        source: folder above ct_train and mr_train.
        modality: ct, mr, or both in one dataset with their domains.
        structures: all seven, or MYO, LA, LV, AA alone as papers on adaptation do.
    """
    from nnunet_ext.data.layouts import mmwhs as layout

    _convert(layout.find(source, modality, structures), target)


def synapse(source: Positional[Source], target: Flat, organs: Literal["13", "8"] = "13") -> None:
    """Synapse multi-organ abdominal CT (BTCV) -> a raw nnU-Net dataset.

    Args:
        source: folder above img and label, or above Training.
        organs: all 13, or the usual 8.
    """
    from nnunet_ext.data.layouts import synapse as layout

    _convert(layout.find(source, organs), target)


def merge(
    dataset: Annotated[str, arg(aliases=["-d"])],
    source: str,
    target: str,
    target_labelled: str | None = None,
    overwrite: bool = False,
) -> None:
    """Two raw nnU-Net datasets -> one: labelled source, unlabelled target, domains recorded.

    The target's training labels are not read. The validation cases of its only fold stay labelled and are what the new
    dataset validates on; cases that a fold names in neither part are left out.

    Args:
        dataset: id or full name of the dataset to write.
        source: id or name of the dataset that labels come from.
        target: id or name of the dataset to adapt to.
        target_labelled: FILE or FILE:KEY with target cases or subjects whose labels may be used.
        overwrite: replace a dataset of that name that has other content.
    """
    from nnunet_ext.data.merge import merge as write

    print(write(dataset, source, target, target_labelled=target_labelled, overwrite=overwrite))


VERBS: dict[str, Callable[..., Any]] = {
    "folder": folder,
    "acdc": acdc,
    "mscmr": mscmr,
    "crossmoda": crossmoda,
    "mmwhs": mmwhs,
    "synapse": synapse,
    "merge": merge,
}


def _convert(layout: Layout, target: Target) -> None:
    from nnunet_ext.data.convert import convert

    print(
        convert(
            layout,
            target.dataset,
            labelled=target.labelled,
            split=target.split,
            missing_labels=target.missing_labels,
            overwrite=target.overwrite,
        )
    )


def _label_values(texts: Sequence[str]) -> dict[str, int]:
    """`["RV=1", "LV=3"]` -> `{"RV": 1, "LV": 3}`."""
    values: dict[str, int] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name or not value.isdigit() or name in values:
            raise InputError(f"--label {text}: NAME=VALUE with a whole number is needed, once for each name")
        values[name] = int(value)
    return values
