"""What a registration run reads: the cases of a raw dataset, and labels of labelled training cases only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from nnunet_ext.data.case import IGNORE
from nnunet_ext.data.dataset import read_description, subjects, unlabelled_cases
from nnunet_ext.errors import InputError
from nnunet_ext.paths import preprocessed_root
from nnunet_ext.training.split import split_cases


@dataclass(frozen=True)
class Cases:
    """The training cases of one fold.

    Attributes:
        folder: the raw dataset.
        ending: file ending of images and labels.
        labelled: cases whose label may be read, sorted.
        unlabelled: the others, sorted.
    """

    folder: Path
    ending: str
    labelled: tuple[str, ...]
    unlabelled: tuple[str, ...]
    ignore: int | None = None

    @classmethod
    def of(cls, dataset: str | int, fold: int | str = "all") -> Cases:
        """Cases of a dataset given by id or name.

        `fold` is nnU-Net's: a number takes that fold's training cases, so that no label of a validation case is used;
        "all" takes every case. The folds are those of the trainers, which are stored if they are not there yet.

        Raises:
            InputError: for an unknown dataset or fold, or without a labelled case.
        """
        if str(fold) != "all" and not str(fold).isdigit():
            raise InputError(f"-f {fold}: no such fold, all or a number from 0 is needed")
        folder, content = read_description(dataset)
        ending = content["file_ending"]
        names = [p.name[: -len(f"_0000{ending}")] for p in (folder / "imagesTr").glob(f"*_0000{ending}")]
        splits_file = preprocessed_root() / folder.name / "splits_final.json"
        split = split_cases(names, unlabelled_cases(content), fold, splits_file, subjects(content))
        return cls(folder, ending, tuple(split.labelled), tuple(split.unlabelled), content["labels"].get(IGNORE))

    def __iter__(self):
        return iter(sorted((*self.labelled, *self.unlabelled)))

    def image(self, case: str, channel: int = 0) -> sitk.Image:
        return sitk.ReadImage(str(self._image_file(case, channel)))

    def _image_file(self, case: str, channel: int = 0) -> Path:
        return self.folder / "imagesTr" / f"{case}_{channel:04d}{self.ending}"

    def label_file(self, case: str) -> Path:
        """Of a labelled case.

        Raises:
            ValueError: for an unlabelled case; its label is never read.
        """
        if case not in self.labelled:
            raise ValueError(f"{case} is not a labelled training case, its label must not be read")
        return self.folder / "labelsTr" / f"{case}{self.ending}"

    def labels(self, case: str) -> sitk.Image:
        """Labels of a labelled case, uint8, where its image lies; raises as `label_file`.

        As nnU-Net, this takes a label file's voxels for the image's, one by one, whatever its own header says.
        """
        labels = sitk.ReadImage(str(self.label_file(case)), sitk.sitkUInt8)
        header = sitk.ImageFileReader()
        header.SetFileName(str(self._image_file(case)))
        header.ReadImageInformation()
        if header.GetSize() == labels.GetSize():
            labels.SetOrigin(header.GetOrigin())
            labels.SetSpacing(header.GetSpacing())
            labels.SetDirection(header.GetDirection())
        return labels

    def organ(self, case: str) -> sitk.Image:
        """As `labels`, with voxels that are to be ignored as background: nobody knows of an organ there."""
        labels = self.labels(case)
        return labels if self.ignore is None else sitk.ChangeLabel(labels, {self.ignore: 0})
