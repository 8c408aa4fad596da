"""A package with a Koos model: the grade beside the mask, in every way that the program runs."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
from made_koos import make_koos
from made_models import made_scan, make_model
from program_harness import RELATIVE, Case, command, in_process

from container import __main__ as program
from container.case import process_case
from container.settings import parse
from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.files import sha256
from nnunet_ext.inference.package import load_model, read_package
from nnunet_ext.inference.predictor import Predictor
from nnunet_ext.koos.model import grade
from nnunet_ext.koos.model import load_model as load_koos
from nnunet_ext.koos.packaged import Grader

MASK, GRADE = "images/segmentation/segmentation.mha", "koos.json"
KOOS_FILE = "models/koos.pth"
NO_TUMOUR = {"class": 1, "probabilities": None, "tumour_found": False}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Koos model of label 1, which the segmentation model here calls rv."""
    return make_koos(tmp_path_factory.mktemp("koos"))


def packed(root: Path, fitted: Path, outputs: Sequence[dict[str, str]] = (), **model: Any) -> Path:
    """An unpacked package with both models."""
    arguments = ["package", str(make_model(root / "trained", **model)), "-o", str(root / "model.tar.gz")]
    if outputs:
        (root / "sockets.json").write_text(json.dumps({"outputs": list(outputs)}))
        arguments += ["--sockets", str(root / "sockets.json")]
    main([*arguments, "--koos", str(fitted)])
    with tarfile.open(root / "model.tar.gz") as tar:
        tar.extractall(root / "model", filter="data")
    return root / "model"


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory, fitted: Path) -> Path:
    return packed(tmp_path_factory.mktemp("graded"), fitted)


def written_grade(case: Case, fitted: Path) -> dict[str, Any]:
    """What the mask in the output says, graded by the fitted model outside any package."""
    scan = sitk.ReadImage(str(case.input / RELATIVE / "0a1b.mha"))
    found = grade(scan, sitk.ReadImage(str(case.output / MASK)), load_koos(fitted))
    assert found.probabilities  # there is a tumour, or these tests say nothing
    return {
        "class": found.grade,
        "probabilities": {str(c): pytest.approx(p, abs=2e-6) for c, p in found.probabilities.items()},
        "tumour_found": True,
    }


def test_exec_writes_the_grade_of_the_mask_it_writes(case: Case, graded: Path, fitted: Path) -> None:
    assert in_process(case, graded) == 0
    assert case.written() == [MASK, GRADE]
    assert json.loads((case.output / GRADE).read_text()) == written_grade(case, fitted)


def test_invoke_writes_the_same_bytes_as_exec(case: Case, graded: Path) -> None:
    from fastapi.testclient import TestClient

    from container.server import State, make_app

    assert in_process(case, graded) == 0
    by_exec = {name: (case.output / name).read_bytes() for name in case.written()}
    client = TestClient(make_app(State(program._processor(parse(command(case, graded)[3:])))))
    for _ in range(2):
        answer = client.post("/invoke")
        assert (answer.status_code, answer.json()) == (201, {"outputs": [MASK, GRADE]})
        assert {name: (case.output / name).read_bytes() for name in case.written()} == by_exec


def test_a_grade_alone_is_an_integer_for_a_socket_of_that_kind(case: Case, tmp_path: Path, fitted: Path) -> None:
    outputs = [
        {"kind": "koos_class", "path": "koos-grade.json"},
        {"kind": "segmentation", "path": "images/segmentation"},
        {"kind": "koos", "path": "koos-grade-probabilities.json"},
    ]
    assert in_process(case, packed(tmp_path, fitted, outputs)) == 0
    expected = written_grade(case, fitted)
    assert json.loads((case.output / "koos-grade.json").read_text()) == expected["class"]
    assert json.loads((case.output / "koos-grade-probabilities.json").read_text()) == expected


def test_a_model_trained_on_turned_scans_grades_the_scan_as_it_is_stored(
    case: Case, tmp_path: Path, fitted: Path
) -> None:
    scan = made_scan()
    scan.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, -1))
    case.put(scan)
    assert in_process(case, packed(tmp_path, fitted, reader="SimpleITKIOWithReorient")) == 0
    assert json.loads((case.output / GRADE).read_text()) == written_grade(case, fitted)


def test_an_empty_mask_is_no_tumour_found(case: Case, graded: Path) -> None:
    case.put(made_scan() * 0)
    assert in_process(case, graded) == 0
    assert json.loads((case.output / GRADE).read_text()) == NO_TUMOUR


def test_folder_mode_writes_the_challenge_s_csv(
    case: Case, graded: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.empty()
    for name, scan in (("p10", made_scan(1)), ("p2", made_scan(2)), ("p3", made_scan() * 0)):
        case.put(scan, "", f"{name}_hrT2.nii.gz")
    case.put(b"rubbish", "", "p4_hrT2.nii.gz")
    options = ["--pattern", "{case}_hrT2.nii.gz", "--output", "{case}_Label.nii.gz"]
    assert in_process(case, graded, *options) == 2
    assert "1 of 4 cases failed" in capsys.readouterr().err
    masks = [f"{name}_Label.nii.gz" for name in ("p10", "p2", "p3")]
    assert case.written() == [*masks, "predictions.csv", "predictions.json"]

    # The same as grading these masks by themselves.
    (tmp_path / "masks").mkdir()
    for name in ("p10", "p2", "p3"):
        shutil.copy(case.output / f"{name}_Label.nii.gz", tmp_path / f"masks/{name}.nii.gz")
    (case.input / "p4_hrT2.nii.gz").unlink()
    alone = ["koos", "predict", "-i", str(case.input), "--masks", str(tmp_path / "masks"), "-m", str(fitted)]
    main([*alone, "-o", str(tmp_path / "alone.csv"), "--pattern", "{case}_hrT2.nii.gz", "--device", "cpu"])
    found = (case.output / "predictions.csv").read_text()
    assert found == (tmp_path / "alone.csv").read_text()
    lines = found.splitlines()
    assert lines[0] == '"case","class"'
    assert [line.split(",")[0] for line in lines[1:]] == ['"p2"', '"p3"', '"p10"']
    assert lines[2] == '"p3",1'
    cases = json.loads((case.output / "predictions.json").read_text())["cases"]
    assert cases["p3"] == NO_TUMOUR
    assert sum(cases["p2"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)

    # Again, with a mask that is lost: it comes back, and so does every grade.
    (case.output / masks[1]).unlink()
    (case.output / "predictions.csv").unlink()
    assert in_process(case, graded, *options) == 0
    assert (case.output / "predictions.csv").read_text() == found


def test_a_case_that_cannot_be_graded_leaves_nothing(case: Case, graded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunet_ext.koos import packaged

    def refuse(*_: object) -> None:
        raise InputError("0a1b.mha: cannot be graded")

    predictor = Predictor(load_model([graded]), "cpu")
    monkeypatch.setattr(packaged, "grade", refuse)
    with pytest.raises(InputError, match="cannot be graded"):
        process_case(predictor, case.input, case.output, Grader(predictor.model, predictor.device))
    assert case.written() == []


@pytest.fixture
def changed(graded: Path, tmp_path: Path) -> Path:
    shutil.copytree(graded, tmp_path / "changed")
    return tmp_path / "changed"


def test_a_tampered_koos_model_is_refused(case: Case, changed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((changed / KOOS_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (changed / KOOS_FILE).write_bytes(content)
    assert in_process(case, changed) == 2
    assert "koos.pth: changed or corrupt" in capsys.readouterr().err.strip().splitlines()[-1]
    assert case.written() == []


def test_a_koos_model_that_is_missing_or_was_added_is_refused(changed: Path, package: Path, tmp_path: Path) -> None:
    shutil.copytree(package, tmp_path / "plain")
    shutil.move(changed / KOOS_FILE, tmp_path / "plain" / KOOS_FILE)
    with pytest.raises(InputError, match=r"koos.pth: missing"):
        read_package(changed)
    with pytest.raises(InputError, match=r"koos.pth: not listed"):
        read_package(tmp_path / "plain")


def test_no_pickle_in_a_koos_model_is_executed(case: Case, changed: Path, tmp_path: Path) -> None:
    """A Koos model with code in it is refused before any case, even when the manifest vouches for it."""
    import os

    import torch

    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"format": 1, "settings": Code()}, changed / KOOS_FILE)
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["files"][KOOS_FILE] = sha256(changed / KOOS_FILE)
    (changed / "manifest.json").write_text(json.dumps(manifest))
    assert in_process(case, changed) == 2
    assert not (tmp_path / "executed").exists()
    assert case.written() == []
