"""`translate fit` and `translate apply` on synthetic hearts, from raw datasets to a raw dataset."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnunet_ext.errors import InputError
from translation.apply import apply
from translation.cohort import read_cohort
from translation.fit import fit
from translation.gate import GateSettings
from translation.model import FINAL, LATEST, load_model
from translation.volume.cache import prepare_cohorts
from translation.volume.preparation import read_preparation

TINY = (
    "width=4", "blocks=1", "crop=[48,48]", "batch_size=1", "discriminator_width=4", "discriminator_layers=2",
    "iterations_per_epoch=2", "epochs=2",
)  # fmt: skip


def tiny(method="cut", *more, **arguments):
    small = () if method == "histogram" else TINY
    return fit("901", "902", method, preset="cpu", overrides=(*small, *more), device="cpu", **arguments)


def weights(folder):
    return torch.load(folder / FINAL, weights_only=True)["weights"]


def manifest_of(dataset):
    return json.loads((dataset / "dataset.json").read_text())["nnunet_ext"]["translation"]


def test_dataset_on_the_sources_grid_with_its_labels(hearts):
    tiny("histogram")
    raw = hearts / "raw"
    out = apply("901", "histogram", "903", target="902", force=True, keep_source=True)
    assert out == raw / "Dataset903_CineTranslated"
    described = json.loads((out / "dataset.json").read_text())
    assert described["numTraining"] == 6
    assert described["channel_names"] == {"0": "LGE"}
    assert described["labels"] == json.loads((raw / "Dataset901_Cine" / "dataset.json").read_text())["labels"]
    record = read_preparation(hearts / "results/translation/Dataset901_Cine__Dataset902_LGE/histogram")
    low, high = record.target_range
    manifest = described["nnunet_ext"]["translation"]
    assert manifest["source"] == "Dataset901_Cine"
    assert (manifest["views"]["histogram"]["intensity"]["low"], high) == (low, record.target_histogram[-1])
    for case in read_cohort("901", "-s", labelled=True).cases:
        made = out / "imagesTr" / f"{case}_histogram_0000.nii.gz"
        original = raw / "Dataset901_Cine" / "imagesTr" / f"{case}_0000.nii.gz"
        label = raw / "Dataset901_Cine" / "labelsTr" / f"{case}.nii.gz"
        assert (out / "labelsTr" / f"{case}_histogram.nii.gz").read_bytes() == label.read_bytes()
        assert (out / "imagesTr" / f"{case}_0000.nii.gz").read_bytes() == original.read_bytes()
        one, two = sitk.ReadImage(str(made)), sitk.ReadImage(str(original))
        assert one.GetPixelID() == sitk.sitkFloat32
        assert one.GetSize() == two.GetSize()
        for property_ in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(one, property_)() == pytest.approx(getattr(two, property_)(), abs=1e-6)
        values = sitk.GetArrayFromImage(one)
        assert low - 1e-3 <= values.min() < values.max() <= high + 1e-3
        assert manifest["cases"][f"{case}_histogram"]["source"] == case
        assert described["nnunet_ext"]["subject"][f"{case}_histogram"] == case


def test_histogram_brings_the_intensities_to_the_target(hearts):
    tiny("histogram")
    out = apply("901", "histogram", "903", target="902", force=True)
    made = [sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (out / "imagesTr").iterdir()]
    target = read_cohort("902", "-t", labelled=False)
    real = [sitk.GetArrayFromImage(target.image(c)) for c in target.cases]
    source = read_cohort("901", "-s", labelled=True)
    own = [sitk.GetArrayFromImage(source.image(c)) for c in source.cases]
    median = [float(np.mean([np.median(a) for a in arrays])) for arrays in (made, real, own)]
    assert abs(median[0] - median[1]) < 0.5 * abs(median[2] - median[1])


@pytest.mark.parametrize("method", ["cyclegan", "tanq"])
def test_fit_and_apply_two_views(hearts, method):
    folder = tiny(method)
    assert (folder / "terms.csv").read_text().count("\n") == 3
    assert list((folder / "images").glob("*.png"))
    assert not (folder / LATEST).exists()
    other = tiny("histogram")
    out = apply("901", f"{method},{other}", "Dataset904_Two", target="902", force=True, device="cpu")
    described = json.loads((out / "dataset.json").read_text())
    assert described["numTraining"] == 6
    assert described["nnunet_ext"]["translation"]["views"].keys() == {method, "histogram"}


@pytest.mark.parametrize("method", ["cyclegan", "cut"])
def test_continues_exactly_where_it_was_stopped(hearts, tmp_path, monkeypatch, method):
    whole = tiny(method, output=tmp_path / "whole")
    cls = type(load_model(whole, torch.device("cpu")).method)
    step, steps = cls.fit_step, []

    def interrupted(self, batch):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(cls, "fit_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tiny(method, output=tmp_path / "parts")
    assert (tmp_path / "parts" / LATEST).exists()
    assert not (tmp_path / "parts" / FINAL).exists()
    tiny(method, output=tmp_path / "parts")
    one, two = weights(whole), weights(tmp_path / "parts")
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert (whole / "terms.csv").read_text() == (tmp_path / "parts" / "terms.csv").read_text()


def test_finished_fit_is_not_repeated_and_other_settings_are_refused(hearts):
    folder = tiny()
    before = (folder / FINAL).stat().st_mtime_ns
    tiny()
    assert (folder / FINAL).stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"other settings \(epochs\)"):
        tiny("cut", "epochs=3")


@pytest.mark.parametrize(("side", "name"), [("source", "Dataset901_Cine"), ("target", "Dataset902_LGE")])
def test_a_fit_to_other_scans_of_the_same_names_is_refused(hearts, side, name):
    folder = tiny()
    before = (folder / "preparation.json").read_bytes()
    cohort = read_cohort(name, "-s", labelled=side == "source")
    path = cohort.image_path(cohort.cases[0])
    sitk.WriteImage(10 * sitk.ReadImage(str(path)), str(path))
    with pytest.raises(InputError, match=rf"other {side} \(files\)"):
        tiny()
    assert (folder / "preparation.json").read_bytes() == before


@pytest.mark.parametrize(
    ("method", "wrong"),
    [("tanq", 'region_normalised=["cochlea"]'), ("msfnet", "vgg19=nope"), ("histogram", "atlas=nope")],
)
def test_a_fit_refused_for_its_settings_leaves_the_folder_to_the_right_ones(hearts, method, wrong):
    right = {"histogram": (), "tanq": ("epochs=1",), "msfnet": ("epochs=1", "blocks=2", "decoder_blocks=1")}[method]
    with pytest.raises(InputError):
        tiny(method, *right, wrong)
    assert (tiny(method, *right) / "method.json").exists()


def test_second_apply_translates_nothing_again(hearts, monkeypatch):
    tiny("histogram")
    apply("901", "histogram", "903", target="902", force=True)
    monkeypatch.setattr("translation.apply.translate_case", None)
    apply("901", "histogram", "903", target="902", force=True)


def test_unlabelled_target_labels_are_never_read(hearts):
    for path in (hearts / "raw" / "Dataset902_LGE" / "labelsTr").iterdir():
        path.unlink()
    tiny("histogram")


def test_target_cohort_leaves_out_labelled_validation_cases(hearts):
    assert len(read_cohort("902", "-t", labelled=False).cases) == 2
    assert len(read_cohort("902", "-t", labelled=True).cases) == 1
    assert len(read_cohort("901", "-s", labelled=False).cases) == 3


def test_gate_names_structure_and_cases(hearts, monkeypatch):
    tiny("histogram")
    from translation.methods.histogram import Histogram

    noise = torch.Generator().manual_seed(0)
    monkeypatch.setattr(
        Histogram, "translate", lambda self, volume, labels=None: torch.randn(volume.shape, generator=noise).tanh()
    )
    with pytest.raises(InputError, match=r"histogram washes out (RV|MYO|LV) in 3 of 3 cases \(cine_") as caught:
        apply("901", "histogram", "903", target="902")
    assert "\n" not in str(caught.value)
    assert not (hearts / "raw" / "Dataset903_CineTranslated").exists()


def test_gate_lets_a_faithful_translation_pass(hearts):
    tiny("histogram")
    out = apply("901", "histogram", "903", target="902")
    gate = manifest_of(out)["views"]["histogram"]["gate"]
    assert gate["lost"] == {}
    assert gate["verdicts"].keys() == {"cine_000", "cine_001", "cine_002"}
    assert all(v["covered"] == pytest.approx(1, abs=0.15) for v in gate["verdicts"]["cine_000"].values())


def shift_one_heart(monkeypatch):
    """As a failed registration would, look for the heart of the first case to be placed 300 mm beside it."""
    from translation.volume import preparation

    places, right = [], preparation.place

    def wrong(*arguments):
        placement = right(*arguments)
        places.append(placement)
        away = sitk.AffineTransform(3)
        away.SetTranslation((300.0, 0.0, 0.0))
        return replace(placement, affine=away) if len(places) == 1 else placement

    monkeypatch.setattr(preparation, "place", wrong)


def test_gate_sees_labels_outside_the_working_grid(hearts, monkeypatch):
    tiny("histogram")
    shift_one_heart(monkeypatch)
    with pytest.raises(InputError, match=r"leaves most of LV outside the working grid in 1 of 3 cases \(cine_000\)"):
        apply("901", "histogram", "903", target="902")


def test_losses_that_are_tolerated_or_forced_are_told(hearts, monkeypatch, caplog):
    tiny("histogram")
    shift_one_heart(monkeypatch)
    out = apply("901", "histogram", "903", target="902", gate=GateSettings(tolerated=0.4))
    assert any(
        "LV outside" in r.message and "cine_000" in r.message for r in caplog.records if r.levelname == "WARNING"
    )
    gate = manifest_of(out)["views"]["histogram"]["gate"]
    assert gate["lost"] == {"RV": ["cine_000"], "MYO": ["cine_000"], "LV": ["cine_000"]}
    verdict = gate["verdicts"]["cine_000"]["LV"]
    assert verdict == {"before": None, "after": None, "covered": 0, "lost": True}
    # The same reports, now too many lost ones, but forced.
    forced = apply("901", "histogram", "904", target="902", gate=GateSettings(tolerated=0.4), force=True)
    assert manifest_of(forced)["views"]["histogram"]["gate"] == gate


def test_folds_keep_a_patient_on_one_side(hearts):
    """Two frames of one patient, two views of each, and the source's own scans."""
    path = hearts / "raw" / "Dataset901_Cine" / "dataset.json"
    described = json.loads(path.read_text())
    described["nnunet_ext"]["subject"] = {"cine_000": "ann", "cine_001": "ann"}
    path.write_text(json.dumps(described))
    one = tiny("histogram")
    two = tiny("histogram", "percentiles=[1,99]", output=hearts / "two")
    apply("901", f"{one},{two}", "903", force=True, keep_source=True)
    folds = json.loads((hearts / "preprocessed" / "Dataset903_CineTranslated" / "splits_final.json").read_text())
    assert len(folds) == 2
    for fold in folds:
        assert len(fold["train"]) + len(fold["val"]) == 9
        sides = [{name[:8] == "cine_002" for name in fold[side]} for side in ("train", "val")]
        assert sides in ([{True}, {False}], [{False}, {True}])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "RV": 1, "MYO": 3, "LV": 2}, "'MYO': 2, 'LV': 3}, Dataset901_Cine has .*'LV': 2, 'MYO': 3"),
        ({"background": 0, "RV": 1, "muscle": 2, "LV": 3}, "'MYO'.*the same names and values are needed"),
        ({"background": 0, "RV": 1, "MYO": 2, "LV": 3, "ignore": 4}, "'ignore': 4"),
    ],
)
def test_model_of_other_labels_is_refused(hearts, labels, message):
    folder = tiny("histogram")
    path = hearts / "raw" / "Dataset901_Cine" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))
    with pytest.raises(InputError, match=message) as caught:
        apply("901", str(folder), "903")
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(("side", "channel"), [("902_LGE", "CT"), ("901_Cine", "ct"), ("902_LGE", "noNorm")])
def test_source_of_another_normalisation_is_not_kept(hearts, side, channel):
    path = hearts / "raw" / f"Dataset{side}" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"channel_names": {"0": channel}}))
    tiny("histogram")
    with pytest.raises(InputError, match=rf"--keep-source: .*{channel}"):
        apply("901", "histogram", "903", target="902", force=True, keep_source=True)
    apply("901", "histogram", "903", target="902", force=True)


def test_fit_from_before_a_setting_existed_is_continued(hearts):
    folder = tiny()
    path = folder / "method.json"
    described = json.loads(path.read_text())
    del described["settings"]["lambda_mind"], described["source"]["files"], described["target"]["files"]
    path.write_text(json.dumps(described))
    assert tiny() == folder
    with pytest.raises(InputError, match=r"other settings \(lambda_mind\)"):
        tiny("cut", "lambda_mind=1")


def test_anatomy_terms_are_in_the_table_of_a_fit(hearts):
    folder = tiny("cyclegan", "lambda_mind=1", "lambda_correlation=1", "epochs=1")
    assert {"mind", "correlation"} <= set((folder / "terms.csv").read_text().splitlines()[0].split(","))


def test_one_dataset_with_domains(hearts):
    source, target = hearts / "raw" / "Dataset901_Cine", hearts / "raw" / "Dataset902_LGE"
    one = json.loads((source / "dataset.json").read_text())
    two = json.loads((target / "dataset.json").read_text())
    for folder in ("imagesTr", "labelsTr"):
        for path in (target / folder).iterdir():
            shutil.copy(path, source / folder / path.name)
    one["labels"] = two["labels"]
    one["nnunet_ext"] = {
        "unlabelled": two["nnunet_ext"]["unlabelled"],
        "domain": one["nnunet_ext"]["domain"] | two["nnunet_ext"]["domain"],
    }
    (source / "dataset.json").write_text(json.dumps(one))
    folder = fit("901:cine", "901:lge", "histogram")
    assert read_preparation(folder).target_histogram != read_preparation(folder).source_histogram
    assert len(read_cohort("901:cine", "-s", labelled=True).cases) == 3
    with pytest.raises(InputError, match="its domains: cine, lge"):
        read_cohort("901:CT", "-s", labelled=True)


@pytest.mark.slow
def test_atlas_is_recorded_and_repeated(hearts):
    cohort = read_cohort("902", "-t", labelled=False)
    case = cohort.cases[0]
    left = hearts / "results/translation/Dataset901_Cine__Dataset902_LGE/histogram/atlas.nii.gz"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a call that was refused")
    folder = fit("901", "902", "histogram", overrides=(f"atlas={case}", "spacing=[3,3,null]"))
    assert read_preparation(folder).atlas_sha256
    out = apply("901", "histogram", "903", target="902", force=True)
    assert len(list((out / "imagesTr").iterdir())) == 3
    shutil.copy(hearts / "raw/Dataset901_Cine/imagesTr" / next(
        p.name for p in (hearts / "raw/Dataset901_Cine/imagesTr").iterdir()
    ), folder / "atlas.nii.gz")  # fmt: skip
    with pytest.raises(InputError, match="not the atlas of the fit"):
        apply("901", str(folder), "905", force=True, overwrite=True)


def test_cached_scans_are_prepared_once(hearts, monkeypatch, tmp_path):
    tiny("histogram")
    monkeypatch.setattr("translation.volume.cache.place", None)
    tiny("cut")


def test_preparation_is_the_same_for_fit_and_apply(hearts):
    folder = tiny("histogram", "histogram_matching=false")
    source, target = read_cohort("901", "-s", labelled=True), read_cohort("902", "-t", labelled=False)
    record, cases, _ = prepare_cohorts(source, target, read_preparation(folder).volume, folder)
    image = source.image(cases[0].name)
    prepared = record.prepare(image, source.label(cases[0].name, image), "source", folder)
    assert prepared.volume == pytest.approx(cases[0].curve(cases[0].image))
    assert np.array_equal(prepared.labels, cases[0].labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("901", "999", "cut"), "no such dataset"),
        (("901", "902", "pix2pix"), "--method pix2pix"),
    ],
)
def test_bad_fit_input(hearts, arguments, message):
    with pytest.raises(InputError, match=message):
        fit(*arguments)


@pytest.mark.parametrize("orientation", ["LLL", "LRS", "XYZ"])
def test_an_orientation_that_is_none_is_refused(hearts, orientation):
    with pytest.raises(InputError, match="orientation"):
        fit("901", "902", "cut", overrides=(f"orientation={orientation}",))


def test_bad_apply_input(hearts, tmp_path):
    with pytest.raises(InputError, match="--target is needed"):
        apply("901", "cut", "903")
    with pytest.raises(InputError, match="holds no translation method"):
        apply("901", str(tmp_path), "903")
    with pytest.raises(InputError, match=r"--views cyclgan: neither a method \(.*cyclegan.*\) nor the folder"):
        apply("901", "cyclgan", "903", target="902")
    with pytest.raises(InputError, match="names nothing"):
        apply("901", ",", "903")
    folder = tiny()
    (folder / FINAL).unlink()
    with pytest.raises(InputError, match="not finished"):
        apply("901", "cut", "903", target="902")


def test_msfnet_takes_further_label_folders(hearts):
    labels = hearts / "raw" / "Dataset901_Cine" / "labelsTr"
    folder = tiny("msfnet", "decoder_blocks=0", f'label_folders={{"parts": "{labels}"}}')
    assert load_model(folder, torch.device("cpu")).method.heads["parts"].head.out_channels == 4


def test_unreadable_scan_is_named(hearts):
    path = hearts / "raw" / "Dataset901_Cine" / "imagesTr"
    broken = sorted(path.iterdir())[0]
    broken.write_bytes(b"not an image")
    with pytest.raises(InputError, match=broken.name):
        tiny("histogram")
