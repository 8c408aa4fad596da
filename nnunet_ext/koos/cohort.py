"""The scans of a fit: nnU-Net datasets and a CSV of grades become exams with their views, masks and grades."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from nnunet_ext.data.dataset import domains, read_description, subjects, unlabelled_cases
from nnunet_ext.data.images import natural, read_scan, require_same_grid, scans
from nnunet_ext.data.images import read as read_image
from nnunet_ext.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """One modality of an exam: a case of a dataset, its scan and the mask that belongs to it."""

    case: str
    image: Path
    mask: Path

    def read(self) -> tuple[sitk.Image, sitk.Image]:
        """Scan and label map.

        Raises:
            InputError: for a file that is missing, unreadable or not 3D, or grids that differ.
        """
        image, label = read_scan(self.image), read_image(self.mask)
        if image.GetDimension() != 3:
            raise InputError(f"{self.image}: {image.GetDimension()} dimensions, a 3D scan is needed")
        require_same_grid(image, label, self.image, self.mask)
        return image, label


@dataclass(frozen=True)
class Exam:
    """One examination of one person: a scan and its translations, or scans of several modalities."""

    name: str
    subject: str
    views: tuple[View, ...]
    grade: int | None


@dataclass(frozen=True)
class _Case:
    name: str
    image: Path
    label: Path | None
    subject: str
    domain: str
    source: str | None


def read_exams(
    datasets: Sequence[str], grades: Mapping[str, int], where: str, masks: Path | None, tumour: Sequence[str]
) -> tuple[list[Exam], tuple[int, ...]]:
    """The exams of one or several raw datasets.

    Cases belong to one exam when one is the translation of another (`translate apply` records it), or when a subject
    has one case in each of several domains. A grade may name a case or a subject, and holds for the whole exam.

    Args:
        datasets: ids or names.
        grades: case or subject -> grade.
        where: the file of the grades, for messages.
        masks: folder of masks named after the cases, such as `nnunet_ext predict` writes; it goes before the
            datasets' labels. A translation takes the mask of its source where it has none.
        tumour: names of the labels that make up the tumour; not needed where there is only one.

    Returns:
        the exams, by name, and the tumour's label values.

    Raises:
        InputError: for a grade without a case, a case without a mask, cases of one exam with different grades, a
            dataset of several channels, or labels that leave open which is the tumour.
    """
    cases: dict[str, _Case] = {}
    values: tuple[int, ...] = ()
    for dataset in datasets:
        folder, described = read_description(dataset)
        found = _tumour(described["labels"], tumour, folder.name)
        if values and found != values:
            raise InputError(f"-d {dataset}: the tumour is label {found} here, the other datasets' {values} is needed")
        values = found
        for case in _cases(folder, described):
            if case.name in cases:
                raise InputError(f"{case.image}: a second case {case.name} beside {cases[case.name].image}")
            cases[case.name] = case
    groups = _groups(cases)
    predicted = scans(masks) if masks is not None else {}
    exams = []
    used: set[str] = set()
    for name, members in groups.items():
        named = {key for c in members for key in (c.name, c.subject)} | {name}
        own = {key: grades[key] for key in sorted(named) if key in grades}
        if len(set(own.values())) > 1:
            told = ", ".join(f"{key} {grade}" for key, grade in own.items())
            raise InputError(f"{where}: different grades for one exam ({told}), one is needed")
        used |= set(own)
        views = tuple(View(c.name, c.image, _mask(c, cases, predicted, masks)) for c in members)
        exams.append(Exam(name, members[0].subject, views, next(iter(own.values()), None)))
    if strangers := [name for name in grades if name not in used]:
        example = next(iter(cases))
        raise InputError(
            f"{where}: a grade for {strangers[0]}, which is no case and no subject of {', '.join(datasets)};"
            f" names such as {example} are needed"
        )
    return sorted(exams, key=lambda exam: natural(exam.name)), values


def without(exams: Sequence[Exam], empty: Collection[str]) -> list[Exam]:
    """The exams without views whose mask is empty, and without those that have no other."""
    left = [replace(exam, views=tuple(v for v in exam.views if v.case not in empty)) for exam in exams]
    return [exam for exam in left if exam.views]


def _cases(folder: Path, described: Mapping[str, Any]) -> list[_Case]:
    channels = described["channel_names"]
    if len(channels) != 1:
        told = ", ".join(channels.values())
        raise InputError(f"{folder}: {len(channels)} channels ({told}), one is needed: a case per modality")
    whom, which, unlabelled = subjects(described), domains(described), unlabelled_cases(described)
    made = described.get("nnunet_ext", {}).get("translation", {}).get("cases", {})
    default = next(iter(channels.values()))
    cases = []
    for stem, image in scans(folder / "imagesTr").items():
        name = stem.removesuffix("_0000")
        label = folder / "labelsTr" / f"{name}{described['file_ending']}"
        source = made.get(name, {}).get("source")
        known = label if name not in unlabelled and label.is_file() else None
        cases.append(_Case(name, image, known, whom.get(name, source or name), which.get(name, default), source))
    return cases


def _groups(cases: Mapping[str, _Case]) -> dict[str, list[_Case]]:
    """Exam -> its cases: translations with their source, then subjects with one original in each domain."""
    originals: dict[str, list[_Case]] = defaultdict(list)
    for case in cases.values():
        originals[case.source or case.name].append(case)
    by_subject: dict[str, list[str]] = defaultdict(list)
    for name, members in originals.items():
        by_subject[members[0].subject].append(name)
    groups: dict[str, list[_Case]] = {}
    for subject, names in by_subject.items():
        seen = [{c.domain for c in originals[name]} for name in names]
        together = len(names) > 1 and sum(map(len, seen)) == len(set().union(*seen))
        for key, parts in {subject: names}.items() if together else {name: [name] for name in names}.items():
            members = [c for part in parts for c in originals[part]]
            groups[key] = sorted(members, key=lambda c: (c.source is not None, c.domain, c.name))
    return groups


def _mask(case: _Case, cases: Mapping[str, _Case], predicted: Mapping[str, Path], masks: Path | None) -> Path:
    source = cases.get(case.source or "")
    for candidate in (
        predicted.get(case.name),
        case.label,
        predicted.get(case.source or ""),
        source.label if source else None,
    ):
        if candidate is not None:
            return candidate
    place = f"in {masks}" if masks is not None else "and no --masks"
    raise InputError(f"{case.image}: no label for {case.name} {place}, a mask of the tumour is needed for every case")


def _tumour(labels: Mapping[str, Any], names: Sequence[str], dataset: str) -> tuple[int, ...]:
    known = {k: v for k, v in labels.items() if k not in ("background", "ignore") and isinstance(v, int)}
    if not names and len(known) == 1:
        return tuple(known.values())
    if not names or any(name not in known for name in names):
        found = f"{', '.join(names)} is not a label of {dataset}" if names else f"not given for {dataset}"
        raise InputError(f"--tumour: {found}, one or several of its labels are needed: {', '.join(known)}")
    return tuple(sorted(known[name] for name in names))
