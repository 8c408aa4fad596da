"""The scans of one side: a raw nnU-Net dataset, or one domain of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from nnunet_ext.data.dataset import IGNORE, domains, read_description, subjects, unlabelled_cases
from nnunet_ext.data.images import ENDINGS, natural, read_scan, require_same_grid
from nnunet_ext.data.images import read as read_image
from nnunet_ext.errors import InputError, reason
from nnunet_ext.files import sha256


@dataclass(frozen=True)
class Cohort:
    """Cases of one modality.

    Attributes:
        name: the dataset's full name.
        domain: the domain within it, empty for all cases.
        folder: the raw dataset.
        ending: of its files.
        cases: names, sorted.
        labels: label name -> value, without `ignore`, in order of values.
        ignore: value of the ignore label, if there is one.
        channel_name: of the only channel.
        subject: case -> subject, for cases that share one.
    """

    name: str
    domain: str
    folder: Path
    ending: str
    cases: tuple[str, ...]
    labels: dict[str, int]
    ignore: int | None
    channel_name: str
    subject: dict[str, str]

    def image_path(self, case: str) -> Path:
        return self.folder / "imagesTr" / f"{case}_0000{self.ending}"

    def label_path(self, case: str) -> Path:
        return self.folder / "labelsTr" / f"{case}{self.ending}"

    def digest(self, *, labels: bool) -> str:
        """SHA-256 over the contents of all scans, and of their label maps where `labels` says so.

        Raises:
            InputError: when a file is missing or unreadable.
        """
        content = []
        for case in self.cases:
            files = [self.image_path(case)] + ([self.label_path(case)] if labels else [])
            try:
                content.append([case, *(sha256(file) for file in files)])
            except OSError as error:
                raise InputError(f"{error.filename}: not readable ({error.strerror}), a scan is needed") from None
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def spacing(self, case: str) -> tuple[float, ...]:
        """The scan's voxel size in mm, from its header alone.

        Raises:
            InputError: when it is missing or unreadable.
        """
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(self.image_path(case)))
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            found = f"not readable ({reason(error)})"
            raise InputError(f"{self.image_path(case)}: {found}, an intact scan is needed") from None
        return reader.GetSpacing()

    def image(self, case: str) -> sitk.Image:
        """The case's scan.

        Raises:
            InputError: when it is missing, unreadable, not 3D or holds NaN.
        """
        return _volume(read_scan(self.image_path(case)), self.image_path(case))

    def label(self, case: str, image: sitk.Image) -> sitk.Image:
        """The case's label map, which must lie on the grid of `image`."""
        path = self.label_path(case)
        label = _volume(read_image(path), path)
        require_same_grid(image, label, self.image_path(case), path)
        return label


def label_table(labels: Mapping[str, int], ignore: int | None) -> dict[str, int]:
    """Name -> value as `dataset.json` has it, the ignore label included where there is one."""
    return {**labels, **({} if ignore is None else {IGNORE: ignore})}


def read_cohort(spec: str, flag: str, *, labelled: bool) -> Cohort:
    """The cohort that a flag names.

    Args:
        spec: `ID`, `DatasetXXX_Name`, or either with `:domain`.
        flag: for messages.
        labelled: leave out the unlabelled cases. Otherwise the unlabelled ones count, or all where none is declared:
            labelled cases beside unlabelled ones are there to validate on. No label is then ever read.

    Raises:
        InputError: for a dataset, domain or layout that does not fit, or without cases.
    """
    reference, _, domain = spec.partition(":")
    folder, described = read_description(reference, flag)
    name = folder.name
    channels = described["channel_names"]
    if len(channels) != 1:
        raise InputError(f"{flag} {spec}: {name} has {len(channels)} channels, one is needed")
    ending = described["file_ending"]
    if ending not in ENDINGS:
        raise InputError(f"{flag} {spec}: files end in {ending}, one of {', '.join(ENDINGS)} is needed")
    where = domains(described)
    suffix = f"_0000{ending}"
    cases = {p.name.removesuffix(suffix) for p in (folder / "imagesTr").glob(f"*{suffix}")}
    if domain:
        cases &= {case for case, d in where.items() if d == domain}
    blind = unlabelled_cases(described)
    if labelled:
        cases -= blind
    elif cases & blind:
        cases &= blind
    if not cases:
        known = f" (its domains: {', '.join(sorted(set(where.values()))) or 'none'})" if domain else ""
        raise InputError(f"{flag} {spec}: no {'labelled ' * labelled}cases in {name}, at least one is needed{known}")
    values = described["labels"]
    if any(not isinstance(v, int) for v in values.values()):
        raise InputError(f"{flag} {spec}: {name} has regions for labels, plain label values are needed")
    return Cohort(
        name=name,
        domain=domain,
        folder=folder,
        ending=ending,
        cases=tuple(sorted(cases, key=natural)),
        labels={n: v for n, v in sorted(values.items(), key=lambda item: item[1]) if n != IGNORE},
        ignore=values.get(IGNORE),
        channel_name=next(iter(channels.values())),
        subject=subjects(described),
    )


def _volume(image: sitk.Image, path: Path) -> sitk.Image:
    if image.GetDimension() != 3:
        raise InputError(f"{path}: {image.GetDimension()} dimensions, a 3D scan is needed")
    return image
