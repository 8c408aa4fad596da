"""The program as a process: exec and folder mode, the model, the output, limits and signals."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_models import made_scan, make_model
from program_harness import Case, Run, command, environment, in_process

from container.case import process_case, volumes
from container.outputs import all_or_nothing, check_output, remove_unfinished
from nnunet_ext.errors import InputError
from nnunet_ext.inference import images
from nnunet_ext.inference.images import read_scan
from nnunet_ext.inference.package import load_model, read_package
from nnunet_ext.inference.predictor import Predictor
from nnunet_ext.inference.sockets import parse_sockets

MODEL_FILE = "models/0/fold_0.pth"


def last_line(stderr: str) -> str:
    return stderr.strip().splitlines()[-1]


def test_exec_writes_the_mask_and_exits(run: Run, case: Case) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert case.mask().GetSize() == made_scan().GetSize()


def test_exec_refuses_bad_input_in_the_last_line(case: Case, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.put(b"")
    assert in_process(case, package) == 2
    assert last_line(capsys.readouterr().err).endswith("0a1b.mha: 0 bytes, a scan is needed")
    assert case.written() == []


def test_folder_mode_keeps_names_and_a_bad_scan_costs_only_itself(
    case: Case, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.empty()
    case.put(made_scan(1), "", "one.nii.gz")
    case.put(made_scan(2), "", "two.mha")
    case.put(b"rubbish", "", "bad.nii.gz")
    assert in_process(case, package) == 2
    assert case.written() == ["one.nii.gz", "two.mha"]
    assert last_line(capsys.readouterr().err).startswith("container: 1 of 3 cases failed, the first: ")


def test_folder_mode_with_the_naming_of_crossmoda(case: Case, package: Path) -> None:
    case.empty()
    case.put(made_scan(), "", "crossmoda_211_hrT2.nii.gz")
    case.put(made_scan(), "", "notes_ceT1.nii.gz")
    options = ["--pattern", "{case}_hrT2.nii.gz", "--output", "{case}_Label.nii.gz"]
    assert in_process(case, package, *options) == 0
    assert case.written() == ["crossmoda_211_Label.nii.gz"]


def test_empty_folder(case: Case, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.empty()
    assert in_process(case, package) == 2
    assert "no cases" in last_line(capsys.readouterr().err)
    assert case.written() == []


def test_missing_model(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(case, tmp_path / "none") == 2
    assert "no manifest.json" in last_line(capsys.readouterr().err)


@pytest.fixture
def changed(package: Path, tmp_path: Path) -> Path:
    shutil.copytree(package, tmp_path / "changed")
    return tmp_path / "changed"


def test_corrupt_model(changed: Path) -> None:
    weights = changed / MODEL_FILE
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"fold_0.pth: changed or corrupt"):
        read_package(changed)


def test_tampered_model(changed: Path) -> None:
    plans = changed / "models/0/plans.json"
    plans.write_text(plans.read_text().replace("1.5", "1.6"))
    with pytest.raises(InputError, match=r"plans.json: changed or corrupt"):
        read_package(changed)


def test_model_with_a_file_missing_or_added(changed: Path) -> None:
    (changed / "models/0/extra.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"extra.pth: not listed"):
        read_package(changed)
    (changed / "models/0/extra.pth").unlink()
    (changed / MODEL_FILE).unlink()
    with pytest.raises(InputError, match=r"fold_0.pth: missing"):
        read_package(changed)


def test_no_pickle_is_executed(changed: Path, tmp_path: Path) -> None:
    """A checkpoint with code in it is refused even when the manifest vouches for it."""
    import torch

    from nnunet_ext.files import sha256

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"weight": Code()}, changed / MODEL_FILE)
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["files"][MODEL_FILE] = sha256(changed / MODEL_FILE)
    (changed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"fold_0.pth"):
        read_package(changed)
    assert not (tmp_path / "executed").exists()


def test_unwritable_output(case: Case, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    case.output = tmp_path / "file" / "output"
    assert in_process(case, package) == 2
    assert "not writable (Not a directory)" in last_line(capsys.readouterr().err)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not hold root back")
def test_output_without_permission(case: Case, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.output.chmod(0o555)
    assert in_process(case, package) == 2
    assert "not writable (Permission denied)" in last_line(capsys.readouterr().err)


def test_full_output(run: Run, case: Case) -> None:
    # A limit on the size of files is what a full disk looks like to a writer.
    case.put(made_scan(size=(96, 96, 6)))
    done = run(limits={resource.RLIMIT_FSIZE: 400})
    assert done.returncode == 2, done.stderr
    assert "writing failed" in last_line(done.stderr)
    assert case.written() == []


@pytest.fixture(scope="module")
def imported() -> int:
    """Bytes of data that the program's imports alone take; torch's part differs between processors."""
    ask = "import nnunet_ext.inference.predictor; print(open('/proc/self/status').read())"
    status = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in status.splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) << 10


def test_a_small_memory_limit_is_named_before_the_kernel_acts(run: Run, case: Case, imported: int) -> None:
    case.put(made_scan(size=(400, 400, 120), spacing=(1.5, 1.5, 1.5)))
    done = run(limits={resource.RLIMIT_DATA: imported + (200 << 20)})
    assert done.returncode == 2, done.stderr
    assert "400 x 400 x 120 voxels need about" in last_line(done.stderr)
    assert "RLIMIT_DATA" in last_line(done.stderr)
    assert case.written() == []


def test_a_case_is_predicted_under_a_memory_limit(run: Run, case: Case, imported: int) -> None:
    done = run(limits={resource.RLIMIT_DATA: imported + (800 << 20)})
    assert done.returncode == 0, done.stderr
    assert case.mask().GetSize() == made_scan().GetSize()


def test_kill_during_writing_leaves_no_partial_file(
    predictor: Predictor, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment of writing the name does not exist; what a kill leaves is removed by the next run."""
    seen: list[list[str]] = []
    original = images.sitk.WriteImage

    def write(image: sitk.Image, path: str, **options: bool) -> None:
        original(image, path, **options)
        seen.append(case.written())
        raise KeyboardInterrupt  # not an error that anyone handles

    monkeypatch.setattr(images.sitk, "WriteImage", write)
    with pytest.raises(KeyboardInterrupt):
        process_case(predictor, case.input, case.output)
    assert len(seen[0]) == 1
    assert seen[0][0].startswith(".partial-")
    assert case.written() == []

    (case.output / ".partial-killed/images").mkdir(parents=True)
    (case.output / ".partial-killed/images/half.mha").write_bytes(b"half")
    (case.output / ".partial-file.nii.gz").write_bytes(b"half")
    check_output(case.output)
    assert case.written() == []


def test_outputs_appear_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()  # the second name cannot be replaced: it is a folder
    (tmp_path / "b/in-the-way").write_text("")

    def write() -> None:
        with all_or_nothing(tmp_path, ["a.json", "b"]) as staging:
            (staging / "a.json").write_text("1")
            (staging / "b").write_text("2")

    with pytest.raises(InputError, match="writing failed"):
        write()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]


def test_a_case_that_is_stopped_between_two_of_its_files_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def stopped_after_the_first(source: Path, target: Path) -> None:
        replace(source, target)
        remove_unfinished(tmp_path)  # what the handler of SIGTERM does before it ends the process
        assert list(tmp_path.iterdir()) == []
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped_after_the_first)

    def write() -> None:
        with all_or_nothing(tmp_path, ["a.json", "b.json"]) as staging:
            (staging / "a.json").write_text("1")
            (staging / "b.json").write_text("2")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "later.json").write_text("3")
    remove_unfinished(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["later.json"]


def test_sigterm_ends_exec_within_5_seconds_and_leaves_nothing(case: Case, package: Path) -> None:
    case.put(made_scan(size=(320, 320, 200)))
    process = subprocess.Popen(command(case, package), env=environment(), stderr=subprocess.PIPE, text=True)
    time.sleep(6)  # amid the work, wherever that is: importing, loading or predicting
    assert process.poll() is None
    start = time.monotonic()
    process.terminate()
    process.communicate(timeout=30)
    assert time.monotonic() - start < 5
    assert process.returncode == 128 + signal.SIGTERM
    assert case.written() == []


def test_volumes_and_probabilities_as_json(tmp_path: Path, case: Case) -> None:
    from dataclasses import replace

    outputs = [
        {"kind": "segmentation", "path": "images/heart"},
        {"kind": "volumes", "path": "volumes.json"},
        {"kind": "probabilities", "path": "confidence.json"},
    ]
    model = replace(load_model([make_model(tmp_path)]), sockets=parse_sockets({"outputs": outputs}, "sockets.json"))
    process_case(Predictor(model, "cpu"), case.input, case.output)
    assert case.written() == ["confidence.json", "images/heart/segmentation.mha", "volumes.json"]
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(case.output / "images/heart/segmentation.mha")))
    found = json.loads((case.output / "volumes.json").read_text())
    for name, label in (("rv", 1), ("myo", 2), ("lv", 3)):
        assert found[name] == pytest.approx((mask == label).sum() * 1.4 * 1.3 * 8 / 1000)
    assert set(json.loads((case.output / "confidence.json").read_text())) == {"rv", "myo", "lv"}


def test_the_volume_of_a_region_is_that_of_all_its_labels(tmp_path: Path, case: Case) -> None:
    labels = {"background": 0, "heart": [1, 2], "lv": 2}
    model = load_model([make_model(tmp_path, labels=labels)])
    scan = read_scan([case.put(made_scan(size=(2, 2, 2), spacing=(1, 2, 5)))])
    mask = np.array([[[1, 2], [2, 0]], [[0, 0], [0, 0]]], np.uint8)
    assert volumes(mask, scan, model) == {"heart": pytest.approx(0.03), "lv": pytest.approx(0.02)}
