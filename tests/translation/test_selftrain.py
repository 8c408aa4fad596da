"""Self-training on synthetic hearts, with nnU-Net's commands recorded instead of run; the slow test runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk

from nnunet_ext.errors import InputError
from nnunet_ext.paths import results_root
from translation.pseudo_labels import Filters
from translation.selftrain import Training, selftrain

TRAINER = "nnUNetTrainerBaseline"


@pytest.fixture
def commands(hearts, monkeypatch):
    """Commands that would have run; training leaves a checkpoint, predicting copies some hearts' labels."""
    ran: list[tuple[str, ...]] = []

    def run(log_file, *command):
        ran.append(command)
        if command[0] == "nnUNetv2_train":
            (name,) = (p.name for p in (hearts / "raw").iterdir() if p.name.startswith(f"Dataset{command[1]}"))
            fold = Training(trainer=TRAINER).model(name, command[2]) / "fold_all"
            fold.mkdir(parents=True, exist_ok=True)
            (fold / "checkpoint_final.pth").touch()

    def predict(models, folds, cohort, folder, filters, device):
        ran.append(("predict", models[0].parent.name, cohort.name, *cohort.cases))
        folder.mkdir(parents=True, exist_ok=True)
        labels = sorted((hearts / "scans_labels").iterdir())
        for case, path in zip(cohort.cases, labels, strict=False):
            shutil.copy(path, folder / f"{case}{cohort.ending}")
        return {c: {"left_out": "RV was not found" if c == "lge_001" and filters.complete else None}
                for c in cohort.cases}  # fmt: skip

    monkeypatch.setattr("translation.selftrain._run", run)
    monkeypatch.setattr("translation.selftrain.predict_cohort", predict)
    return ran


@pytest.fixture
def lge_labels(hearts, made_hearts):
    (hearts / "scans_labels").mkdir()
    for path in (made_hearts / "lge" / "labels").iterdir():
        shutil.copy(path, hearts / "scans_labels")


def run(**arguments):
    training = Training(trainer=TRAINER, device="cpu")
    return selftrain("901", "902", 910, training=training, **arguments)


def test_rounds_pool_and_retrain_and_a_second_call_repeats_nothing(hearts, commands, lge_labels):
    report = json.loads(run(rounds=2).read_text())
    assert [r["dataset"] for r in report["rounds"]] == [
        "Dataset901_Cine",
        "Dataset910_CineRound1",
        "Dataset911_CineRound2",
    ]
    trained = [c[1] for c in commands if c[0] == "nnUNetv2_train"]
    assert trained == ["901", "910", "911"]
    assert [c[1] for c in commands if c[0] == "predict"] == ["Dataset901_Cine", "Dataset910_CineRound1"]
    assert all(c[3:] == ("lge_000", "lge_001") for c in commands if c[0] == "predict")
    assert report["rounds"][2]["agreement_with_round_before"] == {"RV": 1, "MYO": 1, "LV": 1}
    assert report["best"] == 2
    assert report["models"] == [str(results_root() / "Dataset911_CineRound2" / f"{TRAINER}__nnUNetPlans__2d")]
    pooled = json.loads((hearts / "raw" / "Dataset910_CineRound1" / "dataset.json").read_text())
    assert pooled["numTraining"] == 5
    assert pooled["nnunet_ext"]["pseudo_labelled"] == ["lge_000", "lge_001"]
    assert pooled["labels"] == {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
    splits = json.loads((hearts / "preprocessed" / "Dataset910_CineRound1" / "splits_final.json").read_text())
    assert all({"lge_000", "lge_001"} <= set(fold["train"]) for fold in splits)
    assert sorted(c for fold in splits for c in fold["val"]) == ["cine_000", "cine_001", "cine_002"]
    commands.clear()
    run(rounds=2)
    assert {c[0] for c in commands} == {"predict"}


def test_filters_leave_cases_out(hearts, commands, lge_labels):
    report = json.loads(run(rounds=1, filters=Filters(complete=True)).read_text())
    assert report["rounds"][1]["left_out"] == {"lge_001": "RV was not found"}
    assert report["rounds"][1]["pseudo_labelled"] == 1
    pooled = json.loads((hearts / "raw" / "Dataset910_CineRound1" / "dataset.json").read_text())
    assert pooled["numTraining"] == 4


def test_best_round_is_chosen_on_validation(hearts, commands, lge_labels, monkeypatch):
    scores = iter([{"RV": 0.5, "LV": 0.7}, {"RV": 0.8, "LV": 0.9}, {"RV": 0.8, "LV": None}])
    monkeypatch.setattr("translation.selftrain._validate", lambda *_: next(scores))
    report = json.loads(run(rounds=2, validation="902").read_text())
    assert report["best"] == 1
    assert "Dataset910" in report["models"][0]


def test_interrupted_training_continues(hearts, commands, lge_labels):
    fold = Training(trainer=TRAINER).model("Dataset901_Cine", "2d") / "fold_all"
    fold.mkdir(parents=True)
    (fold / "checkpoint_latest.pth").touch()
    run(rounds=1)
    train = [c for c in commands if c[0] == "nnUNetv2_train"]
    assert train[0][-1] == "--c"
    assert train[1][-1] != "--c"


def test_other_settings_are_not_mixed_in(hearts, commands, lge_labels):
    run(rounds=1)
    with pytest.raises(
        InputError, match=r"other confidence \(0\.0, now 0\.5\); .* remove .*selftrain/Dataset910_CineRound1"
    ):
        run(rounds=1, filters=Filters(confidence=0.5))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fold": "7"}, "--fold 7: no such fold"),
        ({"configurations": ("5d",)}, "-c 5d: no such configuration"),
        ({"trainer": "nope"}, "trainer nope: not found"),
        ({"preset": "tiny"}, "--preset tiny: not a preset"),
        ({"settings": ("foo.bar=1",)}, "foo: no such settings section"),
        ({"settings": ("epochs=none",)}, "schedule.epochs"),
        ({"confidence": 7.0}, "--confidence 7.0: not a probability"),
    ],
)
def test_wrong_input_stops_before_anything_and_the_right_call_goes_on(hearts, commands, lge_labels, changed, message):
    filters = Filters(confidence=changed.pop("confidence", 0.0))
    training = Training(**{"trainer": TRAINER, "device": "cpu"} | changed)
    with pytest.raises(InputError, match=message):
        selftrain("901", "902", 910, training=training, filters=filters)
    assert commands == []
    run(rounds=1)


def darken(path):
    """Other intensities in a file of the same name."""
    sitk.WriteImage(sitk.ReadImage(str(path)) * 0.5, str(path))


@pytest.mark.parametrize(
    "file", ["Dataset901_Cine/imagesTr/cine_000_0000.nii.gz", "Dataset902_LGE/imagesTr/lge_000_0000.nii.gz"]
)
def test_changed_cases_are_refused_with_what_to_remove(hearts, commands, lge_labels, file):
    run(rounds=1)
    darken(hearts / "raw" / file)
    commands.clear()
    with pytest.raises(InputError, match="have changed since") as caught:
        run(rounds=1)
    assert commands == []
    told = [Path(p) for p in str(caught.value).split("remove ")[1].split(", ")]
    assert hearts / "results" / "Dataset901_Cine" / f"{TRAINER}__nnUNetPlans__2d" in told
    # Half of it removed is not taken for a new start either.
    shutil.rmtree(told.pop(0))
    with pytest.raises(InputError, match=r"Dataset910_CineRound1: of a self-training that"):
        run(rounds=1)
    for folder in told:
        shutil.rmtree(folder)
    run(rounds=1)
    assert [c[1] for c in commands if c[0] == "nnUNetv2_train"] == ["901", "910"]


def translated_by(checkpoint, *files):
    """Note in dataset.json, or in nnU-Net's copies of it, which checkpoint made the cases."""
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        described = json.loads(path.read_text()) if path.exists() else {"nnunet_ext": {}}
        described["nnunet_ext"]["translation"] = {"cases": {"cine_000": {"checkpoint_sha256": checkpoint}}}
        path.write_text(json.dumps(described))


def test_model_of_an_earlier_translation_is_refused_under_any_id(hearts, commands, lge_labels):
    model = Training(trainer=TRAINER).model("Dataset901_Cine", "2d")
    translated_by("old", model / "dataset.json")
    translated_by("new", hearts / "raw" / "Dataset901_Cine" / "dataset.json")
    with pytest.raises(
        InputError, match=r"Baseline__nnUNetPlans__2d: trained on Dataset901_Cine as another translation"
    ):
        run(rounds=1)
    assert commands == []
    translated_by("new", model / "dataset.json")
    run(rounds=1)


@pytest.mark.parametrize(("planned_from", "again"), [("old", True), ("new", False)])
def test_plans_of_an_earlier_translation_are_made_again(hearts, commands, lge_labels, planned_from, again):
    folder = hearts / "preprocessed" / "Dataset901_Cine"
    translated_by(planned_from, folder / "dataset.json")
    (folder / "nnUNetPlans.json").touch()
    translated_by("new", hearts / "raw" / "Dataset901_Cine" / "dataset.json")
    run(rounds=1)
    assert any(c[:3] == ("nnUNetv2_plan_experiment", "-d", "901") for c in commands) == again


def test_planner_is_handed_on(hearts, commands, lge_labels):
    plans = "nnUNetResEncUNetMPlans"
    training = Training(trainer=TRAINER, plans=plans, planner="nnUNetPlannerResEncM", device="cpu")
    selftrain("901", "902", 910, training=training, rounds=1)
    planning = [c for c in commands if c[0] == "nnUNetv2_plan_experiment"]
    assert [c[3:] for c in planning] == [("-pl", "nnUNetPlannerResEncM", "-overwrite_plans_name", plans)] * 2


@pytest.mark.parametrize(
    ("training", "message"),
    [
        (Training(plans="nnUNetResEncUNetMPlans"), "--planner nnUNetPlannerResEncM is needed"),
        (Training(planner="nnUNetPlannerResEncL"), "would be called nnUNetPlans, another name is needed"),
    ],
)
def test_plans_and_planner_that_do_not_go_together(hearts, commands, training, message):
    with pytest.raises(InputError, match=message):
        selftrain("901", "902", 910, training=training)
    assert commands == []


def test_validation_of_other_labels_is_refused(hearts, commands):
    path = hearts / "raw" / "Dataset902_LGE" / "dataset.json"
    labels = {"background": 0, "RV": 1, "LV": 2, "MYO": 3, "ignore": 4}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"labels": labels}))
    with pytest.raises(InputError, match=r"--validation 902: its labels are .*'LV': 2.* Dataset901_Cine are needed"):
        run(validation="902")
    assert commands == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("901", "902", 910, {"rounds": 0}), "--rounds 0"),
        (("901", "901", 910, {}), "is also in Dataset901_Cine"),
        (("901", "902", 902, {}), "already in use"),
        (("901", "902", 910, {"validation": "999"}), "no such dataset"),
    ],
)
def test_bad_input(hearts, commands, arguments, message):
    *positional, keywords = arguments
    with pytest.raises(InputError, match=message):
        selftrain(*positional, **keywords)
    assert commands == []


def test_no_label_left(hearts, commands, lge_labels, monkeypatch):
    monkeypatch.setattr(
        "translation.selftrain.predict_cohort",
        lambda models, folds, cohort, folder, filters, device: {c: {"left_out": "unsure"} for c in cohort.cases},
    )
    with pytest.raises(InputError, match="no pseudo-label passes"):
        run(rounds=1)


@pytest.mark.slow
def test_with_nnunet_itself(hearts: Path):
    training = Training(
        trainer="nnUNetTrainerCSUNet",
        preset="cpu",
        settings=("epochs=1", "iterations_per_epoch=2", "val_iterations_per_epoch=1"),
        device="cpu",
    )
    report = json.loads(selftrain("901", "902", 910, rounds=1, training=training, validation="902").read_text())
    assert len(report["rounds"]) == 2
    assert (Path(report["models"][0]) / "fold_all" / "checkpoint_final.pth").exists()
    assert all(set(r["validation_dice"]) == {"RV", "MYO", "LV"} for r in report["rounds"])
