"""crossMoDA 2021, 2022 and 2023 (vestibular schwannoma and cochlea): labelled ceT1 scans, unlabelled T2 scans.

- 2021: `crossmoda_training/source_training/crossmoda_N_ceT1` and `_Label`, `target_training/crossmoda_N_hrT2`;
  values 1 VS, 2 cochlea. The same scans also circulate as `crossmoda2021_ldn_N_...`.
- 2022: `crossmoda2022_training/training_source/crossmoda2022_SITE_N_ceT1`, `training_target/..._hrT2`; as 2021.
- 2023: `crossmoda23_training/TrainingSource/crossmoda2023_SITE_N_ceT1`, `TrainingTarget/..._T2`; values
  1 intra-meatal tumour, 2 extra-meatal tumour, 3 cochlea.

SITE names where a scan comes from: ldn, etz or ukm.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from nnunet_ext.data.dataset import Case
from nnunet_ext.data.images import by_stem, ending, natural, stem
from nnunet_ext.data.layouts.layout import Layout, existing_folder, nothing_found
from nnunet_ext.errors import InputError

log = logging.getLogger(__name__)

Edition = Literal["2021", "2022", "2023"]
Modality = Literal["both", "ceT1", "hrT2"]

WHOLE_TUMOUR = {"VS": 1, "cochlea": 2}
PARTS = {"VS_intrameatal": 1, "VS_extrameatal": 2, "cochlea": 3}
PARTS_TO_WHOLE = {0: 0, 1: 1, 2: 1, 3: 2}
DOMAINS = {"ceT1": "ceT1", "hrT2": "hrT2", "T2": "hrT2"}
FILE = re.compile(r"(?P<subject>crossmoda(?P<year>\d{4})?_(?:(?P<site>[a-z]+)_)?\d+)_(?P<kind>ceT1|hrT2|T2|Label)")


def find(
    source: Path, edition: Edition | None = None, modality: Modality = "both", whole_tumour: bool = False
) -> Layout:
    """The training scans; validation scans without labels are left out, with labels they become the fold's validation.

    Args:
        source: folder above the training folders.
        edition: decides what the label values mean; without it the newest year in the file names does.
        modality: ceT1 (labelled source), hrT2 (target, the edition of 2023 calls it T2) or both in one dataset.
        whole_tumour: join the intra- and extra-meatal parts of the 2023 edition to the VS of the earlier ones.
    """
    existing_folder(source)
    files = by_stem(sorted(p for p in source.rglob("*") if ending(p) and FILE.fullmatch(stem(p))))
    if not files:
        raise nothing_found(source, "crossmoda*_N_ceT1.nii.gz")
    matches = {name: match for name in files if (match := FILE.fullmatch(name))}
    edition = edition or _edition(matches.values())
    labels = {m["subject"]: files[name] for name, m in matches.items() if m["kind"] == "Label"}
    scans = {name: m for name, m in matches.items() if m["kind"] != "Label"}
    subjects = {m["subject"] for m in scans.values()}
    for subject, path in labels.items():
        if subject not in subjects:
            raise InputError(f"{path}: no scan of {subject} under {source}, the pair of scan and label is needed")
    cases, validation, skipped = [], [], 0
    for name, m in sorted(scans.items(), key=lambda item: natural(item[0])):
        domain, subject = DOMAINS[m["kind"]], m["subject"]
        if modality not in ("both", domain):
            continue
        held_out = any("validation" in part.lower() for part in files[name].relative_to(source).parts[:-1])
        if held_out and subject not in labels:
            skipped += 1
            continue
        if domain == "ceT1" and subject not in labels:
            raise InputError(f"{files[name]}: no {subject}_Label beside it, source scans need one")
        mapping = PARTS_TO_WHOLE if edition == "2023" and whole_tumour else None
        cases.append(Case(name, (files[name],), labels.get(subject), subject=subject, domain=domain, label_map=mapping))
        if held_out:
            validation.append(name)
    if skipped:
        log.info("%s: %d validation scans without labels are left out", source, skipped)
    if not cases:
        raise nothing_found(source, f"a training scan of modality {modality}")
    fold = {"train": [c.name for c in cases if c.name not in validation], "val": validation} if validation else None
    return Layout(
        f"crossMoDA{edition}",
        cases,
        ["MRI" if modality == "both" else modality],
        PARTS if edition == "2023" and not whole_tumour else WHOLE_TUMOUR,
        fold=fold,
        pairs=False,
        notes={"site": {name: scans[name]["site"] for name in (c.name for c in cases) if scans[name]["site"]}},
    )


def _edition(matches: Iterable[re.Match[str]]) -> Edition:
    years = {m["year"] for m in matches}
    return "2023" if "2023" in years else "2022" if "2022" in years else "2021"
