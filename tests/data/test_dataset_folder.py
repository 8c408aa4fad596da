"""`nnunet_ext dataset folder`: what is written, and every bad input."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from volumes import FLIPPED, OBLIQUE, ORIGIN, SPACING, array_of, snapshot, values_in, volume

from nnunet_ext.data import dataset as writer
from nnunet_ext.data.dataset import domains, unlabelled_cases

Run = Callable[..., Path]
Refused = Callable[..., str]
LABELS = ("--label", "inner=1", "--label", "outer=2")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four labelled cases, one of them flipped."""
    folder = tmp_path / "study"
    for name in "abcd":
        direction = FLIPPED if name == "b" else OBLIQUE
        volume(folder / "images" / f"{name}.nii.gz", direction=direction)
        volume(folder / "labels" / f"{name}.nii.gz", [0, 1, 2], direction=direction)
    return folder


def description(folder: Path) -> dict:
    return json.loads((folder / "dataset.json").read_text())


def test_unchanged_files_are_copied_byte_for_byte(source: Path, dataset: Run) -> None:
    folder = dataset("folder", source, "-d", 7, *LABELS, "--channel", "T1", "--domain", "siteA")
    assert folder.name == "Dataset007_study"
    for name in "abcd":
        assert (folder / "imagesTr" / f"{name}_0000.nii.gz").read_bytes() == (
            source / "images" / f"{name}.nii.gz"
        ).read_bytes()
        assert (folder / "labelsTr" / f"{name}.nii.gz").read_bytes() == (
            source / "labels" / f"{name}.nii.gz"
        ).read_bytes()
    content = description(folder)
    assert content["labels"] == {"background": 0, "inner": 1, "outer": 2}
    assert content["channel_names"] == {"0": "T1"}
    assert content["numTraining"] == 4
    assert unlabelled_cases(content) == set()
    assert domains(content) == dict.fromkeys("abcd", "siteA")


def test_unlabelled_cases_hold_ignore_on_the_grid_of_their_image(source: Path, dataset: Run, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("b  # the flipped one\n\na\n")
    # Neither readable nor an image: touching the label of an unlabelled case would fail.
    for name in "cd":
        (source / "labels" / f"{name}.nii.gz").write_bytes(b"not an image")
        (source / "labels" / f"{name}.nii.gz").chmod(0)
    folder = dataset("folder", source, "-d", 7, *LABELS, "--labelled", names)
    content = description(folder)
    assert unlabelled_cases(content) == {"c", "d"}
    assert content["labels"]["ignore"] == 3
    for name in "cd":
        image = sitk.ReadImage(str(source / "images" / f"{name}.nii.gz"))
        label = sitk.ReadImage(str(folder / "labelsTr" / f"{name}.nii.gz"))
        assert set(np.unique(sitk.GetArrayFromImage(label))) == {3}
        assert label.GetSize() == image.GetSize()
        for part in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(label, part)(), getattr(image, part)(), rtol=0, atol=1e-6)
    assert values_in(folder / "labelsTr" / "b.nii.gz") == {0, 1, 2}


@pytest.mark.parametrize("content", ['["a", "c"]', '{"few": ["a", "c"]}'])
def test_labelled_takes_a_json_list_and_a_key(content: str, source: Path, dataset: Run, tmp_path: Path) -> None:
    (tmp_path / "few.json").write_text(content)
    key = "" if content.startswith("[") else ":few"
    folder = dataset("folder", source, "-d", 7, *LABELS, "--labelled", f"{tmp_path / 'few.json'}{key}")
    assert unlabelled_cases(description(folder)) == {"b", "d"}


def test_running_again_changes_nothing_and_says_so(
    source: Path, dataset: Run, nnunet_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "split.json").write_text('{"train": ["a", "b", "c"], "val": ["d"], "few": ["a"]}')
    flags = ("--split", tmp_path / "split.json", "--labelled", f"{tmp_path / 'split.json'}:few")
    folder = dataset("folder", source, "-d", 7, *LABELS, *flags)
    (folder / "imagesTs").mkdir()  # a user's own addition
    before = snapshot(nnunet_root)
    caplog.clear()
    dataset("folder", source, "-d", 7, *LABELS, *flags)
    assert snapshot(nnunet_root) == before
    assert "nothing changed" in caplog.text
    splits = json.loads((nnunet_root / "preprocessed" / folder.name / "splits_final.json").read_text())
    assert splits == [{"train": ["a", "b", "c"], "val": ["d"]}]
    # Validation cases stay labelled even though `few` does not name them.
    assert unlabelled_cases(description(folder)) == {"b", "c"}


def test_other_content_needs_overwrite(source: Path, dataset: Run, refused: Refused) -> None:
    folder = dataset("folder", source, "-d", 7, *LABELS)
    volume(source / "images" / "e.nii.gz")
    volume(source / "labels" / "e.nii.gz", [0, 1])
    assert "--overwrite" in refused("folder", source, "-d", 7, *LABELS)
    assert description(folder)["numTraining"] == 4
    dataset("folder", source, "-d", 7, *LABELS, "--overwrite")
    assert description(folder)["numTraining"] == 5
    (folder / "imagesTs").mkdir()
    (source / "images" / "e.nii.gz").unlink()
    (source / "labels" / "e.nii.gz").unlink()
    assert "imagesTs" in refused("folder", source, "-d", 7, *LABELS, "--overwrite")


def test_an_interrupted_conversion_leaves_nothing_and_can_be_repeated(
    source: Path, dataset: Run, nnunet_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = writer.write_case, []

    def interrupted(case: writer.Case, *rest: object) -> None:
        seen.append(case.name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        real(case, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "write_case", interrupted)
    with pytest.raises(SystemExit, match="1"):
        dataset("folder", source, "-d", 7, *LABELS)
    assert list((nnunet_root / "raw").iterdir()) == []
    monkeypatch.setattr(writer, "write_case", real)
    assert description(dataset("folder", source, "-d", 7, *LABELS))["numTraining"] == 4


KILLED = """
import os, signal
from nnunet_ext.cli import main
from nnunet_ext.data import dataset
real, seen = dataset.write_case, []
def write(case, *rest):
    seen.append(case)
    if len(seen) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(case, *rest)
dataset.write_case = write
main({arguments!r})
"""


def test_a_killed_conversion_leaves_no_dataset_and_the_next_run_clears_up(
    source: Path, dataset: Run, nnunet_root: Path
) -> None:
    code = KILLED.format(arguments=["dataset", "folder", str(source), "-d", "7", *LABELS])
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    raw = nnunet_root / "raw"
    assert not any(not p.name.startswith(".partial-") for p in raw.iterdir())
    assert description(dataset("folder", source, "-d", 7, *LABELS))["numTraining"] == 4
    assert [p.name for p in raw.iterdir()] == ["Dataset007_study"]


def test_the_value_of_the_added_ignore_label_is_not_declared(source: Path, refused: Refused, tmp_path: Path) -> None:
    volume(source / "labels" / "a.nii.gz", [0, 3])
    (tmp_path / "names.txt").write_text("a\n")
    assert "value 3" in refused("folder", source, "-d", 7, *LABELS, "--labelled", tmp_path / "names.txt")


def test_flat_images(tmp_path: Path, dataset: Run) -> None:
    volume(tmp_path / "s" / "images" / "a.mha", size=(7, 5))
    volume(tmp_path / "s" / "images" / "b.mha", size=(7, 5))
    volume(tmp_path / "s" / "labels" / "a.mha", [0, 1], size=(7, 5))
    folder = dataset("folder", tmp_path / "s", "-d", 9, "--label", "x=1", "--missing-labels")
    assert array_of(folder / "labelsTr" / "a.mha").shape == (5, 7)
    assert values_in(folder / "labelsTr" / "b.mha") == {2}


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_several_channels(suffix: str, tmp_path: Path, dataset: Run) -> None:
    for case in ("p1", "p2"):
        for channel in range(3):
            volume(tmp_path / "mr" / "images" / f"{case}_{channel:04d}{suffix}")
        volume(tmp_path / "mr" / "labels" / f"{case}{suffix}", [0, 1])
    flags = [word for name in ("T1", "T2", "FLAIR") for word in ("--channel", name)]
    folder = dataset("folder", tmp_path / "mr", "-d", 9, "--label", "lesion=1", *flags)
    assert description(folder)["file_ending"] == suffix
    assert description(folder)["channel_names"] == {"0": "T1", "1": "T2", "2": "FLAIR"}
    for case in ("p1", "p2"):
        for channel in range(3):
            name = f"{case}_{channel:04d}{suffix}"
            assert np.array_equal(array_of(folder / "imagesTr" / name), array_of(tmp_path / "mr" / "images" / name))


def test_four_digits_in_a_case_name_are_no_channel_when_the_label_has_them_too(tmp_path: Path, dataset: Run) -> None:
    for name in ("scan_0000", "scan_0001"):
        volume(tmp_path / "s" / "images" / f"{name}.mha")
        volume(tmp_path / "s" / "labels" / f"{name}.mha", [0, 1])
    folder = dataset("folder", tmp_path / "s", "-d", 9, "--label", "lesion=1")
    assert {p.name for p in (folder / "imagesTr").iterdir()} == {"scan_0000_0000.mha", "scan_0001_0000.mha"}


def test_mixed_file_kinds_keep_their_geometry_to_a_millionth(tmp_path: Path, dataset: Run) -> None:
    volume(tmp_path / "s" / "images" / "a.mha", dtype=np.float64)
    volume(tmp_path / "s" / "labels" / "a.nii.gz", [0, 1])
    volume(tmp_path / "s" / "images" / "b.nii.gz")
    volume(tmp_path / "s" / "labels" / "b.mha", [0, 1])
    folder = dataset("folder", tmp_path / "s", "-d", 9, "--label", "lesion=1")
    for name, original in (("a_0000", "images/a.mha"), ("b_0000", "images/b.nii.gz")):
        written = sitk.ReadImage(str(folder / "imagesTr" / f"{name}.mha"))
        source = sitk.ReadImage(str(tmp_path / "s" / original))
        for part in ("GetSpacing", "GetOrigin", "GetDirection"):
            np.testing.assert_allclose(getattr(written, part)(), getattr(source, part)(), rtol=0, atol=1e-6)
        assert np.array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(source))
        assert written.GetPixelID() == source.GetPixelID()
    np.testing.assert_allclose(sitk.ReadImage(str(folder / "imagesTr" / "a_0000.mha")).GetOrigin(), ORIGIN, atol=1e-12)


def test_a_label_with_a_rounded_header_takes_the_numbers_of_its_image(tmp_path: Path, dataset: Run) -> None:
    volume(tmp_path / "s" / "images" / "a.mha")
    volume(tmp_path / "s" / "labels" / "a.mha", [0, 1], spacing=[s + 2e-6 for s in SPACING])
    folder = dataset("folder", tmp_path / "s", "-d", 9, "--label", "lesion=1")
    assert sitk.ReadImage(str(folder / "labelsTr" / "a.mha")).GetSpacing() == SPACING


def test_values_with_gaps_are_renumbered(tmp_path: Path, dataset: Run) -> None:
    volume(tmp_path / "s" / "images" / "a.nii.gz")
    original = volume(tmp_path / "s" / "labels" / "a.nii.gz", [0, 205, 500, 255])
    flags = ("--label", "LV=500", "--label", "MYO=205", "--label", "ignore=255")
    folder = dataset("folder", tmp_path / "s", "-d", 9, *flags)
    assert description(folder)["labels"] == {"background": 0, "MYO": 1, "LV": 2, "ignore": 3}
    expected = np.vectorize({0: 0, 205: 1, 500: 2, 255: 3}.get)(array_of(original))
    assert np.array_equal(array_of(folder / "labelsTr" / "a.nii.gz"), expected)


# --- bad input: a case is broken in one way, and the message names the file, what was found and what is needed ---


def _another_size(s: Path) -> None:
    volume(s / "labels" / "c.nii.gz", [0, 1], size=(6, 5, 3))


def _another_spacing(s: Path) -> None:
    volume(s / "labels" / "c.nii.gz", [0, 1], spacing=(0.74, 0.74, 9.9))


def _another_origin(s: Path) -> None:
    volume(s / "labels" / "c.nii.gz", [0, 1], origin=(-147.8034, 33.2, 0.7))


def _another_direction(s: Path) -> None:
    volume(s / "labels" / "c.nii.gz", [0, 1], direction=FLIPPED)


def _undeclared_value(s: Path) -> None:
    volume(s / "labels" / "c.nii.gz", [0, 1, 7])


def _fractional_value(s: Path) -> None:
    label = sitk.ReadImage(str(s / "labels" / "c.nii.gz"), sitk.sitkFloat32) * 0.5
    sitk.WriteImage(label, str(s / "labels" / "c.nii.gz"))


def _no_label(s: Path) -> None:
    (s / "labels" / "c.nii.gz").unlink()


def _no_image(s: Path) -> None:
    (s / "images" / "c.nii.gz").unlink()


def _two_images(s: Path) -> None:
    volume(s / "images" / "c.mha")


def _two_labels(s: Path) -> None:
    volume(s / "labels" / "c.mha", [0, 1])


def _garbage(s: Path) -> None:
    (s / "images" / "c.nii.gz").write_bytes(b"not an image")


def _short(s: Path) -> None:
    """A whole gzip stream around half a scan, as an interrupted export leaves it."""
    path = s / "images" / "c.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:400]))


def _cut_off(s: Path) -> None:
    """The first part of the file, as an interrupted download leaves it."""
    volume(s / "images" / "c.nii.gz", size=(60, 50, 40))
    path = s / "images" / "c.nii.gz"
    path.write_bytes(path.read_bytes()[:30000])


def _nan(s: Path) -> None:
    image = sitk.ReadImage(str(s / "images" / "c.nii.gz"), sitk.sitkFloat32)
    image[1, 1, 1] = float("nan")
    (s / "images" / "c.nii.gz").unlink()
    sitk.WriteImage(image, str(s / "images" / "c.mha"))


def _four_dimensions(s: Path) -> None:
    frames = [sitk.ReadImage(str(s / "images" / "c.nii.gz"))] * 2
    sitk.WriteImage(sitk.JoinSeries(frames), str(s / "images" / "c.nii.gz"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_another_size, ["labels/c.nii.gz", "size (6, 5, 3)", "(6, 5, 4)"]),
        (_another_spacing, ["labels/c.nii.gz", "spacing (0.74, 0.74, 9.9)", "0.729067"]),
        (_another_origin, ["labels/c.nii.gz", "33.2", "33.1"]),
        (_another_direction, ["labels/c.nii.gz", "direction (-1", "0.36"]),
        (_undeclared_value, ["labels/c.nii.gz", "value 7", "[0, 1, 2]"]),
        (_fractional_value, ["labels/c.nii.gz", "value 0.5", "[0, 1, 2]"]),
        (_no_label, ["images/c.nii.gz", "no label", "--missing-labels"]),
        (_no_image, ["labels/c.nii.gz", "no image"]),
        (_two_images, ["images/c.nii.gz", "images/c.mha", "exactly one"]),
        (_two_labels, ["labels/c.nii.gz", "labels/c.mha", "exactly one"]),
        (_garbage, ["images/c.nii.gz", "not readable"]),
        (_short, ["images/c.nii.gz", "truncated, 400 bytes", "592"]),
        (_cut_off, ["images/c.nii.gz", "truncated"]),
        (_nan, ["images/c.mha", "1 voxels are NaN"]),
        (_four_dimensions, ["images/c.nii.gz", "4 dimensions"]),
    ],
)
def test_a_broken_case_stops_the_conversion(
    damage: Callable[[Path], None], told: list[str], source: Path, refused: Refused
) -> None:
    damage(source)
    line = refused("folder", source, "-d", 7, *LABELS)
    for part in told:
        assert part in line


def test_a_missing_label_is_an_unlabelled_case_when_said_so(source: Path, dataset: Run) -> None:
    (source / "labels" / "c.nii.gz").unlink()
    folder = dataset("folder", source, "-d", 7, *LABELS, "--missing-labels")
    assert unlabelled_cases(description(folder)) == {"c"}


def test_channels_with_different_grids_are_refused(tmp_path: Path, refused: Refused) -> None:
    volume(tmp_path / "s" / "images" / "p_0000.mha")
    volume(tmp_path / "s" / "images" / "p_0001.mha", spacing=(0.8, 0.8, 9.9))
    volume(tmp_path / "s" / "labels" / "p.mha", [0, 1])
    flags = ("--channel", "T1", "--channel", "T2")
    line = refused("folder", tmp_path / "s", "-d", 9, "--label", "lesion=1", *flags)
    assert "p_0001.mha" in line
    assert "p_0000.mha" in line


def test_a_missing_channel_is_refused(tmp_path: Path, refused: Refused) -> None:
    for name in ("p_0000", "p_0001", "q_0000"):
        volume(tmp_path / "s" / "images" / f"{name}.mha")
    line = refused("folder", tmp_path / "s", "-d", 9, "--label", "lesion=1", "--missing-labels")
    assert "no file q_0001" in line


def test_an_id_that_belongs_to_another_name_is_refused(source: Path, nnunet_root: Path, refused: Refused) -> None:
    (nnunet_root / "preprocessed" / "Dataset007_Other").mkdir()
    line = refused("folder", source, "-d", 7, *LABELS)
    assert "-d 7" in line
    assert "Dataset007_Other" in line


def test_empty_and_missing_folders_are_refused(source: Path, tmp_path: Path, refused: Refused) -> None:
    shutil.rmtree(source / "images")
    (source / "images").mkdir()
    assert "holds no scans" in refused("folder", source, "-d", 7, *LABELS)
    assert "no image folder" in refused("folder", tmp_path / "raw", "-d", 7, *LABELS)
    assert "no such folder" in refused("folder", tmp_path / "nowhere", "-d", 7, *LABELS)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "--label"),
        (("--label", "inner"), "--label inner"),
        (("--label", "inner=1", "--label", "outer=1"), "a value of its own"),
        ((*LABELS, "--channel", "T1", "--channel", "T2"), "--channel: 2 names, 1"),
        ((*LABELS, "--labelled", "nowhere.txt"), "--labelled nowhere.txt: no such file"),
        ((*LABELS, "--labelled", "{tmp}/names.json"), "FILE:KEY is needed: few, odd"),
        ((*LABELS, "--labelled", "{tmp}/names.json:many"), "no key many"),
        ((*LABELS, "--labelled", "{tmp}/names.json:odd"), "not a list of names"),
        ((*LABELS, "--labelled", "{tmp}/names.json:few"), "zz is no case"),
        ((*LABELS, "--labelled", "{tmp}/none.txt"), "none.txt: holds no names"),
        ((*LABELS, "--split", "{tmp}/names.json"), "no train and val lists"),
        ((*LABELS, "--split", "{tmp}/twice.json"), "a is in train and in val"),
        ((*LABELS, "--split", "{tmp}/empty.json"), "val is empty"),
        ((*LABELS, "--split", "{tmp}/nowhere.json"), "no such file"),
        ((*LABELS, "--split", "{tmp}/broken.json"), "not readable as JSON"),
    ],
)
def test_wrong_flags_are_refused(
    flags: tuple[str, ...], told: str, source: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "names.json").write_text('{"few": ["a", "zz"], "odd": {"a": 1}}')
    (tmp_path / "none.txt").write_text("# nobody yet\n")
    (tmp_path / "twice.json").write_text('{"train": ["a", "b"], "val": ["a"]}')
    (tmp_path / "empty.json").write_text('{"train": ["a", "b"], "val": []}')
    (tmp_path / "broken.json").write_text('{"train": ')
    assert told in refused("folder", source, "-d", 7, *(f.format(tmp=tmp_path) for f in flags))


def test_a_labelled_name_without_label_and_a_blind_validation_case_are_refused(
    source: Path, tmp_path: Path, refused: Refused
) -> None:
    (source / "labels" / "c.nii.gz").unlink()
    (tmp_path / "names.json").write_text('{"train": ["a", "b"], "val": ["c"]}')
    assert "c has no label file" in refused(
        "folder", source, "-d", 7, *LABELS, "--labelled", f"{tmp_path / 'names.json'}:val"
    )
    assert "val case c has no label" in refused(
        "folder", source, "-d", 7, *LABELS, "--split", tmp_path / "names.json", "--missing-labels"
    )
