from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from translation.cohort import Cohort
from translation.pseudo_labels import Filters, agreement, largest_components, predict_cohort


def test_largest_component_of_each_label():
    mask = np.zeros((3, 8, 8), np.uint8)
    mask[0, 0, 0] = 1
    mask[1:, 3:6, 3:6] = 1
    mask[0, 7, 7] = 2
    # A diagonal neighbour belongs to the component.
    mask[1, 6, 6] = 1
    out = largest_components(mask)
    assert out[0, 0, 0] == 0
    assert out[1, 6, 6] == 1
    assert (out == 1).sum() == 19
    assert (out == 2).sum() == 1
    assert not largest_components(np.zeros_like(mask)).any()


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        (Filters(), None),
        (Filters(confidence=0.7), None),
        (Filters(confidence=0.8), "MYO has a mean probability of 0.75"),
        (Filters(complete=True), "LV was not found"),
    ],
)
def test_reasons_to_leave_a_case_out(filters, reason):
    assert filters.reason({"RV": 0.9, "MYO": 0.75, "LV": None}) == reason


def cohort(folder, cases):
    return Cohort("Dataset002_T", "", folder, ".nii.gz", tuple(cases), {"background": 0}, None, "MR", {})


def write(path, array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 5.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def test_agreement_by_hand(tmp_path):
    one, two = np.zeros((2, 2, 4, 4), np.uint8)
    one[0, :, :2], two[0, :, 1:3] = 1, 1
    write(tmp_path / "a" / "x.nii.gz", one)
    write(tmp_path / "b" / "x.nii.gz", two)
    # 8 and 8 pixels, 4 in common; structure 2 occurs in neither.
    references = {"x": tmp_path / "b" / "x.nii.gz"}
    found = agreement(cohort(tmp_path, ["x"]), tmp_path / "a", references, {"RV": 1, "MYO": 2})
    assert found == {"RV": 0.5, "MYO": None}


class FakePredictor:
    """Stands in for a trained network: finds bright pixels, and a stray one."""

    calls = 0

    def __init__(self, model, device=None):
        self.model = type("Model", (), {"reorient": False})()

    def predict(self, scan, probabilities=False):
        type(self).calls += 1
        mask = (scan.channels[0] > 50).astype(np.uint8)
        return type("Prediction", (), {"mask": mask, "probability": {"RV": float(scan.channels.max()) / 100}})()


def test_cases_are_predicted_once_filtered_and_keep_their_grid(tmp_path, monkeypatch):
    monkeypatch.setattr("translation.pseudo_labels.Predictor", FakePredictor)
    monkeypatch.setattr("translation.pseudo_labels.read_trained", lambda *_: None)
    FakePredictor.calls = 0
    array = np.zeros((3, 6, 6), np.float32)
    array[1, 2:4, 2:4], array[0, 0, 0] = 90, 60
    for case, values in (("sure", array), ("unsure", array / 1.5)):
        write(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", values)
    scans = cohort(tmp_path, ["sure", "unsure"])
    filters = Filters(confidence=0.8, components=True)
    for _ in range(2):
        found = predict_cohort([tmp_path], ["all"], scans, tmp_path / "labels", filters, "cpu")
        assert found["sure"]["left_out"] is None
        assert found["unsure"]["left_out"] == "RV has a mean probability of 0.60"
    assert FakePredictor.calls == 2
    label = sitk.ReadImage(str(tmp_path / "labels" / "sure.nii.gz"))
    assert label.GetSpacing() == (1.0, 1.0, 5.0)
    assert sitk.GetArrayFromImage(label).sum() == 4
