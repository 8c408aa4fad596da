"""The store on disk: one folder per settings and set of labelled cases, one small set of files per pair.

    nnUNet_preprocessed/<dataset>/registration/<digest>/
        store.json                       settings, labelled cases, scheme, template
        index.json                       every pair's scores or failure, written at the end of a run
        pairs/<case>/<labelled>.json     one pair: scores, seconds, failure
        pairs/<case>/<labelled>.tfm      points of <case> -> points of <labelled> (patient mm, LPS)
        pairs/<case>/<labelled>.nii.gz   displacement applied before it (deformable only)
        pairs/<case>/<labelled>.inverse.*   the other direction, registered on its own
        claims/<case>.lock               held by the process that works on a case; the system frees it when that dies

A pair is done once its .json exists: it is written last, and every file is renamed into place.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from filelock import FileLock

from nnunet_ext.data.dataset import read_description
from nnunet_ext.errors import InputError
from nnunet_ext.files import read_json, write_json
from nnunet_ext.paths import dataset_name, preprocessed_root
from nnunet_ext.registration.cases import Cases
from nnunet_ext.registration.fusion import fuse
from nnunet_ext.registration.pairwise import Registration
from nnunet_ext.registration.settings import STORE_VERSION, RegistrationSettings
from nnunet_ext.registration.transform_files import map_points, read_transform, write_transform


@dataclass(frozen=True)
class RegistrationStore:
    """Finished registrations of one dataset's training cases to its labelled ones."""

    root: Path
    cases: Cases
    settings: RegistrationSettings

    @classmethod
    def open(
        cls, dataset: str | int, settings: RegistrationSettings | None = None, fold: int | str = "all"
    ) -> RegistrationStore:
        """The store of a dataset, these settings and this fold's labelled cases; it may still be empty.

        Raises:
            InputError: as `Cases.of`, and for a channel that the dataset does not have.
        """
        settings = settings or RegistrationSettings()
        cases = Cases.of(dataset, fold)
        if settings.channel >= (count := len(read_description(dataset)[1]["channel_names"])):
            raise InputError(f"channel={settings.channel}: {cases.folder.name} has {count}, 0 to {count - 1} is needed")
        folder = preprocessed_root() / dataset_name(dataset) / "registration"
        return cls(folder / settings.digest(cases.labelled), cases, settings)

    # --- pairs -------------------------------------------------------------------------------------------------------

    def template(self) -> str:
        """The labelled case that all others go through in the `template` scheme: nearest to the median organ size.

        Raises:
            InputError: when there is none whose files can be read and show an organ.
        """
        header = self.root / "store.json"
        if header.exists() and (known := read_json(header)["template"]):
            return known
        volumes = {case: volume for case in self.cases.labelled if (volume := self._organ_volume(case)) > 0}
        if not volumes:
            raise InputError(
                f"{self.cases.folder}: no labelled case can be the template, {', '.join(self.cases.labelled)} cannot be"
                " read or show no organ"
            )
        median = float(np.median(list(volumes.values())))
        return min(volumes, key=lambda case: (abs(volumes[case] - median), case))

    def partners(self, case: str) -> tuple[str, ...]:
        """The labelled cases that `case` is registered to directly."""
        if self.settings.scheme == "pairs":
            return tuple(q for q in self.cases.labelled if q != case)
        template = self.template()
        return tuple(q for q in self.cases.labelled if q != case) if case == template else (template,)

    def missing(self) -> list[str]:
        """Cases with a pair that is not done."""
        return [case for case in self.cases if not self.is_done(case)]

    def is_done(self, case: str) -> bool:
        return all(self._file(case, q).exists() for q in self.partners(case))

    def claim(self, case: str) -> FileLock:
        """The lock of one case; it frees itself when its process dies."""
        folder = self.root / "claims"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{case}.lock")

    def write_header(self) -> None:
        """What this folder is, before the first pair."""
        template = self.template() if self.settings.scheme == "template" else None
        write_json(
            self.root / "store.json",
            {
                "version": STORE_VERSION,
                "dataset": self.cases.folder.name,
                "labelled": self.cases.labelled,
                "template": template,
                "settings": self.settings.model_dump(),
            },
        )

    def write_pair(self, case: str, labelled: str, outcome: Registration) -> None:
        """Keep one outcome."""
        stem = self._file(case, labelled).with_suffix("")
        for transform, name in ((outcome.transform, stem), (outcome.inverse, stem.with_name(f"{labelled}.inverse"))):
            if transform is not None:
                write_transform(transform, name)
        write_json(
            self._file(case, labelled),
            {
                "fixed": case,
                "moving": labelled,
                "failure": outcome.failure,
                "scores": outcome.scores,
                "seconds": round(outcome.seconds, 3),
                "cpu_seconds": round(outcome.cpu_seconds, 3),
            },
        )

    def write_index(self) -> list[dict[str, Any]]:
        """Gather all pairs of this fold that are done into index.json, and return them."""
        pairs = [
            self.record(q, case) for case in self.cases for q in self.partners(case) if self._file(case, q).exists()
        ]
        write_json(self.root / "index.json", pairs)
        return pairs

    def record(self, labelled: str, case: str) -> dict[str, Any]:
        """Scores, seconds and failure of a direct pair.

        Raises:
            InputError: when the pair has not been registered yet.
        """
        file = self._file(case, labelled)
        if not file.exists():
            raise InputError(f"{file}: no such registration, nnunet_ext register has to be run for this dataset first")
        return read_json(file)

    def fingerprint(self) -> str:
        """Twelve characters that change with any registration of this fold, any label that travels and the settings.

        Raises:
            InputError: as `record`.
        """
        content = hashlib.sha256(self.settings.model_dump_json().encode())
        for case in self.cases:
            for q in self.partners(case):
                content.update(json.dumps(self.record(q, case), sort_keys=True).encode())
        for q in self.cases.labelled:
            content.update(self.cases.label_file(q).read_bytes())
        return content.hexdigest()[:12]

    # --- what training asks for ------------------------------------------------------------------------------------

    def transform(self, labelled: str, case: str) -> sitk.Transform | None:
        """T_qj of eq. 6.8: carries `labelled`'s labels onto `case`, i.e. maps points of `case` to points of `labelled`.

        Use it as SimpleITK.Resample(labels, case_image, transform). None where the registration failed.
        """
        return self._map(case, labelled, "")

    def inverse(self, labelled: str, case: str) -> sitk.Transform | None:
        """The other direction: points of `labelled` -> points of `case`."""
        return self._map(case, labelled, ".inverse")

    def score(self, labelled: str, case: str) -> float | None:
        """What `best` maximises, by `settings.selection`; None where the registration failed.

        Through a template a pair is as good as the worse of its two halves.
        """
        scores = []
        for fixed, moving in self._legs(case, labelled):
            record = self.record(moving, fixed)
            if record["failure"]:
                return None
            value = record["scores"][self.settings.selection]
            scores.append(-value if self.settings.selection == "cycle" else value)
        return min(scores)

    def best(self, case: str) -> str | None:
        """Best registration selection: the labelled case whose labels suit `case` best; None if every pair failed.

        Of several with the same score it is the first of `_scores`, as in `fuse`.
        """
        scores = self._scores(case)
        return max(scores, key=lambda q: scores[q]) if scores else None

    def propagated_label(self, case: str, fusion: str | None = None) -> sitk.Image | None:
        """Registered labels of `case` (r_i of eq. 6.8), uint8 on its own grid.

        None if every pair failed. The label of `case` itself plays no part.
        """
        scores = self._scores(case)
        if not scores:
            return None
        grid = self.cases.image(case, self.settings.channel)
        transforms = [t for q in scores if (t := self.transform(q, case)) is not None]
        labels = [self.cases.labels(q) for q in scores]
        return fuse(labels, grid, transforms, list(scores.values()), fusion or self.settings.fusion)

    def coordinates(self, case: str, frame: str | None = None) -> np.ndarray | None:
        """Anatomical coordinates for REPS (eq. 6.11): where each voxel of `case` lies in a labelled volume.

        Voxels of two cases correspond where their coordinates in the same frame are equal.

        Args:
            case: any training case.
            frame: labelled case in whose patient coordinates to answer; without it, the best one.

        Returns:
            float32 (3, z, y, x), mm, in the order x, y, z (LPS), or None where the registration failed.
        """
        frame = frame or self.best(case)
        if frame is None:
            return None
        transform = sitk.Transform(3, sitk.sitkIdentity) if frame == case else self.transform(frame, case)
        return None if transform is None else map_points(transform, self.cases.image(case, self.settings.channel))

    # --- inside ----------------------------------------------------------------------------------------------------

    def _scores(self, case: str) -> dict[str, float]:
        """Labelled case -> score, for the pairs that did not fail; those that one registration leads to come first.

        Through a template all pairs of a case share its registration to the template, and often its score with it: the
        template's own labels, which come without a second registration's error, are then the best.
        """
        others = sorted((q for q in self.cases.labelled if q != case), key=lambda q: (len(self._legs(case, q)), q))
        return {q: score for q in others if (score := self.score(q, case)) is not None}

    def _file(self, case: str, labelled: str) -> Path:
        return self.root / "pairs" / case / f"{labelled}.json"

    def _legs(self, case: str, labelled: str) -> list[tuple[str, str]]:
        """The direct pairs (fixed, moving) that lead from `case` to `labelled`."""
        if self.settings.scheme == "pairs" or labelled in self.partners(case):
            return [(case, labelled)]
        template = self.template()
        return [(case, template), (template, labelled)]

    def _map(self, case: str, labelled: str, which: str) -> sitk.Transform | None:
        parts = []
        for fixed, moving in self._legs(case, labelled):
            if self.record(moving, fixed)["failure"]:
                return None
            parts.append(read_transform(self.root / "pairs" / fixed / f"{moving}{which}"))
        if len(parts) == 1:
            return parts[0]
        # A composite applies what was added last first: the leg that starts at `case` for the map itself.
        return sitk.CompositeTransform(parts if which else parts[::-1])

    def _organ_volume(self, case: str) -> float:
        """mm³; 0 where image or labels cannot be read, which the case's own pairs will record."""
        try:
            self.cases.image(case, self.settings.channel)
            organ = self.cases.organ(case)
        except RuntimeError:
            return 0.0
        return float((sitk.GetArrayViewFromImage(organ) != 0).sum() * np.prod(organ.GetSpacing()))
