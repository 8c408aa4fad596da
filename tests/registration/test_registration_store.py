"""A run over a small dataset: resumed, shared by two processes, on a Dask cluster, through a template."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.crossval_split import generate_crossval_split
from registration_phantoms import blob_stack, dice

from nnunet_ext.cli import main
from nnunet_ext.errors import InputError
from nnunet_ext.files import write_json
from nnunet_ext.registration import run
from nnunet_ext.registration.command import settings_from
from nnunet_ext.registration.settings import RegistrationSettings
from nnunet_ext.registration.store import RegistrationStore

NAME = "Dataset777_Blobs"
LABELLED = {"one": (0, 0), "two": (6, 4)}
UNLABELLED = {"three": (-12, 8), "four": (14, -10)}


@pytest.fixture
def blobs(nnunet_root: Path) -> dict[str, sitk.Image]:
    """A raw dataset of two labelled and two unlabelled stacks; returns the true labels of the latter.

    The label files of the unlabelled ones are no images: reading one would be an error.
    """
    folder = nnunet_root / "raw" / NAME
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    truths = {}
    for seed, (case, shift) in enumerate({**LABELLED, **UNLABELLED}.items()):
        image, labels = blob_stack(shift, seed=seed)
        sitk.WriteImage(image, str(folder / "imagesTr" / f"{case}_0000.nii.gz"))
        if case in LABELLED:
            sitk.WriteImage(labels, str(folder / "labelsTr" / f"{case}.nii.gz"))
        else:
            (folder / "labelsTr" / f"{case}.nii.gz").write_bytes(b"must not be read")
            truths[case] = labels
    content = {
        "channel_names": {"0": "MR"},
        "labels": {"background": 0, "wall": 1, "pool": 2, "side": 3, "ignore": 4},
        "numTraining": 4,
        "file_ending": ".nii.gz",
        "nnunet_ext": {"unlabelled": sorted(UNLABELLED)},
    }
    write_json(folder / "dataset.json", content)
    return truths


def test_pairs_labels_and_coordinates(blobs, quick):
    store = RegistrationStore.open(777, quick)
    pairs = run.register_dataset(store)
    # Four cases to the labelled ones other than themselves: 2 * 2 + 2 * 1.
    assert len(pairs) == 6
    assert not any(pair["failure"] for pair in pairs)
    assert store.missing() == []
    assert json.loads((store.root / "index.json").read_text()) == pairs
    for case, truth in blobs.items():
        for fusion in ("best", "weighted"):
            assert dice(store.propagated_label(case, fusion=fusion), truth) > 0.85
        assert store.best(case) in LABELLED
        # The organ's centre in the unlabelled volume lies at the labelled volume's centre (spacing 2 mm).
        places = store.coordinates(case, "one")
        assert places.shape == (3, 6, 60, 64)
        shift = np.array(UNLABELLED[case])
        column, line = np.round((np.array([63, 59]) + shift) / 2).astype(int)
        assert places[:2, 3, line, column] == pytest.approx((63, 59), abs=3)
    identity = store.coordinates("one", "one")
    assert identity[:, 2, 5, 7] == pytest.approx((14, 10, 16))
    # Plain SimpleITK reads what is stored.
    file = store.root / "pairs" / "three" / "one.tfm"
    assert sitk.ReadTransform(str(file)).TransformPoint((63.0 - 12, 59.0 + 8, 20.0))[:2] == pytest.approx(
        (63, 59), abs=2.5
    )


def test_the_template_scheme_composes(blobs, quick):
    store = RegistrationStore.open(777, quick.model_copy(update={"scheme": "template"}))
    pairs = run.register_dataset(store)
    template = store.template()
    # Each unlabelled case to the template, each other labelled case to it and from it.
    assert len(pairs) == 2 + 2 * 1
    assert all(template in (pair["fixed"], pair["moving"]) for pair in pairs)
    other = next(q for q in LABELLED if q != template)
    point = (50.0, 60.0, 20.0)
    through = store.transform(template, "three").TransformPoint(point)
    expected = store.transform(other, template).TransformPoint(through)
    assert store.transform(other, "three").TransformPoint(point) == pytest.approx(expected)
    back = store.inverse(other, "three").TransformPoint(expected)
    assert back == pytest.approx(point, abs=4)
    assert dice(store.propagated_label("three", fusion="majority"), blobs["three"]) > 0.8


def test_a_deformable_pair_is_read_by_plain_simpleitk(blobs, quick):
    store = RegistrationStore.open(777, quick.model_copy(update={"transform": "deformable"}))
    run.register_dataset(store, cases=["three"])
    stem = store.root / "pairs" / "three" / "one"
    field = sitk.ReadImage(f"{stem}.nii.gz", sitk.sitkVectorFloat64)
    assert np.abs(sitk.GetArrayFromImage(field)).max() > 0.05  # mm
    displacement, affine = sitk.DisplacementFieldTransform(field), sitk.ReadTransform(f"{stem}.tfm")
    for point in ((50.0, 66.0, 20.0), (40.0, 70.0, 12.0), (60.0, 60.0, 30.0)):
        expected = affine.TransformPoint(displacement.TransformPoint(point))
        assert store.transform("one", "three").TransformPoint(point) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("broken", ["label", "no organ", "image"])
def test_a_labelled_case_that_cannot_be_the_template_costs_its_own_pairs_only(blobs, nnunet_root, quick, broken):
    folder = nnunet_root / "raw" / NAME
    file = folder / "labelsTr" / "one.nii.gz"
    if broken == "no organ":
        sitk.WriteImage(sitk.ReadImage(str(file)) * 0, str(file))
    else:
        (folder / "imagesTr" / "one_0000.nii.gz" if broken == "image" else file).write_bytes(b"no image")
    store = RegistrationStore.open(777, quick.model_copy(update={"scheme": "template"}))
    pairs = run.register_dataset(store)
    assert store.template() == "two"
    failed = {(pair["fixed"], pair["moving"]) for pair in pairs if pair["failure"]}
    assert failed == {("two", "one")} | ({("one", "two")} if broken == "image" else set())
    for case, truth in blobs.items():
        assert store.best(case) == "two"
        assert dice(store.propagated_label(case), truth) > 0.8


def test_without_a_template_at_all_it_is_said(blobs, nnunet_root, capsys):
    for case in LABELLED:
        (nnunet_root / "raw" / NAME / "labelsTr" / f"{case}.nii.gz").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stop:
        main(["register", "-d", "777", "--scheme", "template"])
    assert stop.value.code == 2
    assert "no labelled case can be the template, one, two cannot be read" in capsys.readouterr().err


def test_what_only_chooses_among_stored_registrations_opens_the_same_store(blobs, quick):
    store = RegistrationStore.open(777, quick)
    run.register_dataset(store)
    other = RegistrationStore.open(777, quick.model_copy(update={"selection": "cycle", "fusion": "staple"}))
    assert other.root == store.root
    assert other.missing() == []
    assert other.score("one", "three") == -store.record("one", "three")["scores"]["cycle"]
    # Training keeps what it made of them apart, and makes it again when a pair or a label that travels changes.
    assert other.fingerprint() != store.fingerprint()
    before = store.fingerprint()
    assert RegistrationStore.open(777, quick).fingerprint() == before
    file = store.cases.label_file("one")
    sitk.WriteImage(sitk.ReadImage(str(file)) * 1 + 1, str(file))
    assert store.fingerprint() != before


def test_finished_pairs_are_not_done_again(blobs, quick, monkeypatch):
    store = RegistrationStore.open(777, quick)
    run.register_dataset(store, cases=["three", "one"])
    assert store.missing() == ["four", "two"]
    done = {p: p.stat().st_mtime_ns for p in store.root.glob("pairs/*/*.json")}
    (store.root / "pairs" / "one" / "two.json").unlink()  # as a kill between transform and record leaves it
    worked = []
    inner = run.register_case
    monkeypatch.setattr(run, "register_case", lambda fixed, *rest: worked.append(1) or inner(fixed, *rest))
    run.register_dataset(store)
    assert len(worked) == 3  # four, two, and one again
    again = {p: p.stat().st_mtime_ns for p in done}
    assert {p for p in done if again[p] != done[p]} == {store.root / "pairs" / "one" / "two.json"}


def test_settings_and_labelled_cases_have_their_own_folder(blobs, quick):
    root = RegistrationStore.open(777, quick).root
    assert RegistrationStore.open(NAME, quick).root == root
    assert RegistrationStore.open(777, quick.model_copy(update={"margin": 0.2})).root != root
    write_json(root.parents[1] / "splits_final.json", [{"train": ["one", "three"], "val": ["two", "four"]}])
    of_fold = RegistrationStore.open(777, quick, 0)
    assert of_fold.root != root
    assert of_fold.cases.labelled == ("one",)
    assert of_fold.cases.unlabelled == ("four", "three")  # without a label, `four` trains whatever the split says
    with pytest.raises(InputError, match="fold 5 was asked for"):
        RegistrationStore.open(777, quick, 5)
    with pytest.raises(ValueError, match="must not be read"):
        of_fold.cases.labels("two")


@pytest.mark.parametrize(
    "changed", [{}, {"channel": 1}, {"scheme": "template", "scales": (0.9, 1.1), "selection": "cycle"}]
)
def test_the_flags_that_a_message_gives_open_the_same_store(changed):
    settings = RegistrationSettings(**changed)
    words = shlex.split(settings.flags())
    assert words[:4] == ["--transform", settings.transform, "--scheme", settings.scheme]
    assert settings_from(words[1], words[3], words[5:]) == settings


def test_before_the_first_training_the_folds_are_the_trainers(nnunet_root, quick):
    names = [f"case{i}" for i in range(7)]
    folder = nnunet_root / "raw" / NAME
    (folder / "imagesTr").mkdir(parents=True)
    for name in names:
        (folder / "imagesTr" / f"{name}_0000.nii.gz").touch()
    content = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "wall": 1}, "file_ending": ".nii.gz"}
    write_json(folder / "dataset.json", {**content, "nnunet_ext": {"unlabelled": ["case6"]}})
    cases = RegistrationStore.open(777, quick, 2).cases
    expected = generate_crossval_split(names[:6], seed=12345, n_splits=5)[2]  # nnU-Net's own
    assert cases.labelled == tuple(expected["train"])
    assert cases.unlabelled == ("case6",)
    # A training that comes later finds the same split.
    stored = json.loads((nnunet_root / "preprocessed" / NAME / "splits_final.json").read_text())
    assert stored[2] == {"train": [*expected["train"], "case6"], "val": list(expected["val"])}


def test_best_of_equal_scores_is_the_one_that_fuse_takes(blobs, quick, monkeypatch):
    store = RegistrationStore.open(777, quick)
    monkeypatch.setattr(RegistrationStore, "score", lambda self, labelled, case: 0.5)
    monkeypatch.setattr(RegistrationStore, "transform", lambda self, q, case: sitk.TranslationTransform(3))
    fused = sitk.GetArrayFromImage(store.propagated_label("three", fusion="best"))
    of = {q: sitk.GetArrayFromImage(store.cases.labels(q)) for q in LABELLED}
    assert [q for q in LABELLED if np.array_equal(of[q], fused)] == [store.best("three")]


def test_through_a_template_its_own_labels_are_best_of_equals(blobs, quick, monkeypatch):
    store = RegistrationStore.open(777, quick.model_copy(update={"scheme": "template"}))
    equal = {"failure": None, "scores": {"similarity": 0.5}}
    monkeypatch.setattr(RegistrationStore, "record", lambda self, q, case: equal)
    for template in LABELLED:
        monkeypatch.setattr(RegistrationStore, "template", lambda self, name=template: name)
        assert store.best("three") == template


def _runner(tmp_path: Path, body: str) -> list[str]:
    """A program that registers dataset 777 with the quick settings, after `body`."""
    code = f"""
from nnunet_ext.registration import run
from nnunet_ext.registration.store import RegistrationStore
from nnunet_ext.registration.settings import RegistrationSettings
settings = RegistrationSettings(**{{"transform": "affine", "search_size": 40, "max_rotation": 15, "scales": (1.0,),
    "refine_size": 24, "affine_iterations": 15, "candidates": 2}})
{body}
store = RegistrationStore.open(777, settings)
run.register_dataset(store)
print(sum(worked))
"""
    file = tmp_path / "runner.py"
    file.write_text(code)
    return [sys.executable, str(file)]


COUNT = """
worked = []
inner = run.register_case
def counted(*arguments):
    worked.append(1)
    return inner(*arguments)
run.register_case = counted
"""


def test_a_killed_run_goes_on(blobs, tmp_path):
    """Killed when the second case starts: the next run does the other three and no claim is in its way."""
    stop = (
        COUNT
        + """
import os, signal
def killed(*arguments):
    if worked:
        os.kill(os.getpid(), signal.SIGKILL)
    return counted(*arguments)
run.register_case = killed
"""
    )
    first = subprocess.run(_runner(tmp_path, stop), capture_output=True, text=True, timeout=300)
    assert first.returncode == -signal.SIGKILL, first.stderr
    second = subprocess.run(_runner(tmp_path, COUNT), capture_output=True, text=True, timeout=300, check=True)
    assert second.stdout.strip() == "3"
    assert not list((tmp_path / "preprocessed").rglob(".partial-*"))


def test_two_runs_at_once_share_the_work(blobs, tmp_path):
    command = _runner(tmp_path, COUNT)
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum(int(out) for out, _ in outputs) == 4  # every case once


@pytest.mark.parametrize(
    ("content", "told"), [([], "no file_ending"), ({"file_ending": ".nii.gz"}, "no channel_names")]
)
def test_a_dataset_json_that_is_none_is_told(blobs, nnunet_root, capsys, content, told):
    write_json(nnunet_root / "raw" / NAME / "dataset.json", content)
    with pytest.raises(SystemExit) as stop:
        main(["register", "-d", "777"])
    assert stop.value.code == 2
    assert f"dataset.json: {told}, which every nnU-Net dataset needs" in capsys.readouterr().err


def test_ignored_voxels_are_no_organ(blobs, nnunet_root):
    folder = nnunet_root / "raw" / NAME
    description = json.loads((folder / "dataset.json").read_text())
    description["labels"]["ignore"] = 9
    write_json(folder / "dataset.json", description)
    file = folder / "labelsTr" / "one.nii.gz"
    labels = sitk.ReadImage(str(file))
    part = sitk.GetArrayFromImage(labels)
    organ = part > 0
    part[:, : part.shape[1] // 2][~organ[:, : part.shape[1] // 2]] = 9
    changed = sitk.GetImageFromArray(part)
    changed.CopyInformation(labels)
    sitk.WriteImage(changed, str(file))
    cases = RegistrationStore.open(777).cases
    assert (sitk.GetArrayFromImage(cases.labels("one")) == 9).any()
    assert np.array_equal(sitk.GetArrayFromImage(cases.organ("one")) > 0, organ)


def test_unreadable_and_broken_scans_are_recorded(blobs, nnunet_root, quick, capsys):
    images = nnunet_root / "raw" / NAME / "imagesTr"
    (images / "three_0000.nii.gz").write_bytes(b"no image")
    flat = sitk.ReadImage(str(images / "four_0000.nii.gz")) * 0
    sitk.WriteImage(flat, str(images / "four_0000.nii.gz"))
    store = RegistrationStore.open(777, quick)
    pairs = run.register_dataset(store)
    failures = {(p["fixed"], p["moving"]): p["failure"] for p in pairs if p["failure"]}
    assert set(failures) == {(case, q) for case in UNLABELLED for q in LABELLED}
    assert "not readable" in failures["three", "one"]
    assert "constant" in failures["four", "two"]
    assert store.best("three") is None
    assert store.propagated_label("three") is None
    assert store.coordinates("four") is None


def test_labels_lie_where_their_image_does_whatever_their_header_says(blobs, nnunet_root, quick):
    """As for nnU-Net, which takes a label file's voxels for the image's and warns of another origin at most."""
    expected = RegistrationStore.open(777, quick)
    run.register_dataset(expected, cases=["three"])
    carried = sitk.GetArrayFromImage(expected.propagated_label("three"))
    for case in LABELLED:
        file = str(nnunet_root / "raw" / NAME / "labelsTr" / f"{case}.nii.gz")
        label = sitk.ReadImage(file)
        label.SetOrigin((40, -30, 0))
        label.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(label, file)
    store = RegistrationStore.open(777, quick)
    shutil.rmtree(store.root)
    run.register_dataset(store, cases=["three"])
    assert np.array_equal(sitk.GetArrayFromImage(store.propagated_label("three")), carried)


def test_a_run_in_which_nothing_could_be_registered_is_no_success(blobs, nnunet_root, capsys):
    for case in (*LABELLED, *UNLABELLED):
        (nnunet_root / "raw" / NAME / "imagesTr" / f"{case}_0000.nii.gz").write_bytes(b"no image")
    with pytest.raises(SystemExit) as stop:
        main(["register", "-d", "777"])
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert "failed: one -> three: three: not readable" in out
    assert "every registration failed" in err


def test_the_command_writes_a_report(blobs, tmp_path, capsys):
    report = tmp_path / "report.json"
    words = ["register", "-d", "777", "--transform", "affine", "--report", str(report)]
    small = ["search_size=40", "max_rotation=0", "scales=[1.0]", "refine_size=24", "affine_iterations=10"]
    main([*words, "--set", *small])
    content = json.loads(report.read_text())
    assert content["summary"]["pairs"] == 6
    assert content["summary"]["failures"] == 0
    assert content["settings"]["search_size"] == 40
    assert content["store"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "serch_size=40"], "serch_size is not a setting"),
        (["--set", "margin"], "KEY=VALUE"),
        (["--jobs", "0"], "--jobs 0"),
        (["-f", "0"], "too few for 5 folds, use fold all or write a split"),
        (["-f", "first"], "-f first: no such fold"),
        (["--set", "window=8"], "odd"),
        (["--set", "scales=[]"], "at least 1 item"),
        (["--set", "scales=[0.0]"], "greater than 0"),
        (["--set", "channel=1"], "channel=1: Dataset777_Blobs has 1, 0 to 0 is needed"),
    ],
)
def test_wrong_input_is_one_line(blobs, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        main(["register", "-d", "777", *words])
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in line


def test_a_missing_backend_is_named(blobs, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.util.joblib", None)
    with pytest.raises(SystemExit) as stop:
        main(["register", "-d", "777", "--backend", "ray"])
    assert stop.value.code == 2
    assert "nnunet_ext[ray]" in capsys.readouterr().err


def test_a_dask_cluster_does_the_work(blobs, quick):
    distributed = pytest.importorskip("distributed")
    # Joblib does without a cluster that has one core only.
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        pairs = run.register_dataset(RegistrationStore.open(777, quick), backend="dask", jobs=2)
        loaded = client.run(_has_loaded, "nnunet_ext.registration.pairwise")
    assert len(pairs) == 6
    assert not any(pair["failure"] for pair in pairs)
    assert any(loaded.values())  # a worker's process did it, not this one


@pytest.mark.slow
def test_a_ray_cluster_does_the_work(blobs, quick):
    ray = pytest.importorskip("ray", reason="Ray is an extra that the tests do without: pip install 'nnunet_ext[ray]'")
    assert not ray.is_initialized()
    pairs = run.register_dataset(RegistrationStore.open(777, quick), backend="ray", jobs=2)
    assert len(pairs) == 6
    assert not any(pair["failure"] for pair in pairs)
    assert not ray.is_initialized()  # what was started here is stopped again


def _has_loaded(module: str) -> bool:
    return module in sys.modules
