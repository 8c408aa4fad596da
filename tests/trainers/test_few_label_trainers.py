"""Mean Teacher to CCT-R on the tiny dataset: they train, go on exactly, read no hidden label, and predict alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from continuing import check_continues_exactly, content, same

from nnunet_ext.registration.fusion import propagate
from nnunet_ext.registration.pairwise import Registration
from nnunet_ext.registration.store import RegistrationStore
from nnunet_ext.training.cctr import CCTRSettings
from nnunet_ext.training.split import split_cases
from nnunet_ext.training.students import LogitMean, Output

LABELLED, UNLABELLED = [f"case{i}" for i in range(6)], ["scan0", "scan1"]
METHODS = ("MeanTeacher", "UAMT", "CPS", "CTS", "MCSC", "MCSCv2", "CCTR")
PAIRS = METHODS[2:]
TRANSFORMER = {"embed_dim": 8, "depths": [1, 1, 1], "decoder_depths": [1, 1], "num_heads": [1, 2, 2], "window_size": 4}
CONTRAST = {"width": 16, "dim": 8}
SMALL = {
    "MCSC": {**CONTRAST, "patches": (8, 4), "groups": 2, "pixels": 64, "scales": (1, 4)},
    "MCSCv2": {
        **CONTRAST,
        "pool": 128,
        "anchors": 16,
        "negatives": 16,
        "bank": 500,
        "scales": (1, 4),
        "threshold": 0.34,
    },
    "CCTR": {
        **CONTRAST,
        "pool": 128,
        "anchors": 16,
        "negatives": 16,
        "bank": 500,
        "scales": (1, 4),
        "threshold": 0.0,
        "cell": 60.0,
    },
    "UAMT": {"passes": 2},
}


@pytest.fixture(autouse=True)
def _small(change_settings: Callable[..., None]) -> None:
    for configuration in ("2d", "3d_fullres"):
        change_settings(configuration, SwinUNet=TRANSFORMER, **SMALL)


@pytest.fixture
def registered(tiny: Path) -> RegistrationStore:
    """The pairs that CCT-R needs with its own settings."""
    splits = tiny / "preprocessed" / "Dataset901_Tiny" / "splits_final.json"
    split_cases(LABELLED + UNLABELLED, UNLABELLED, 0, splits)
    return store_of()


def store_of(**settings: str) -> RegistrationStore:
    """A registration store of fold 0 in which every volume has been moved a little."""
    store = RegistrationStore.open("901", CCTRSettings().registration.model_copy(update=settings), fold=0)
    store.write_header()
    for number, case in enumerate(store.cases):
        for place, labelled in enumerate(store.partners(case)):
            shift = sitk.AffineTransform(3)
            shift.SetTranslation((1.5 * (number % 3), 1.5, 0.0))
            good = 0.5 + 0.1 * (place % 3) + 0.01 * place
            scores = {"agreement": good, "similarity": good, "cycle": -good}
            store.write_pair(case, labelled, Registration(shift, shift.GetInverse(), scores))
    return store


@pytest.mark.parametrize("name", METHODS)
def test_killed_and_continued_equals_uninterrupted(train, monkeypatch, registered, name):
    check_continues_exactly(train, f"nnUNetTrainer{name}", monkeypatch)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_process_goes_on_with_its_own_bank(train, monkeypatch, rank):
    trainer = train("nnUNetTrainerMCSCv2", stop=True)
    trainer.initialize()
    rows = [{"rows": {n: c[:k].clone() for n, c in trainer.contrast.banks[0][0].columns.items()}, "next": k}
            for k in (3, 5)]  # fmt: skip
    states = [trainer.contrast.memory() for _ in rows]
    for state, bank in zip(states, rows, strict=True):
        state["banks"][0][0] = bank
    # What two processes would gather; a third one finds nothing and begins anew.
    monkeypatch.setattr(type(trainer), "rank_state", lambda self: states[0], raising=False)
    gather = type(trainer).from_all_ranks
    monkeypatch.setattr(
        type(trainer), "from_all_ranks", lambda self, value: states if "banks" in value else gather(self, value)
    )
    target = f"{trainer.output_folder}/checkpoint_latest.pth"
    trainer.save_checkpoint(target)
    monkeypatch.undo()
    trainer.local_rank = rank
    trainer.load_checkpoint(target)
    assert len(trainer.contrast.banks[0][0]) == (3, 5, 0)[rank]


@pytest.mark.parametrize("name", METHODS)
def test_trains_in_3d_and_predicts_alone(train, tiny, registered, threads_for_processes, name):
    trainer = train(f"nnUNetTrainer{name}", "3d_fullres")
    trainer.perform_actual_validation()
    case = trainer.do_split()[1][0]
    validated = sitk.GetArrayFromImage(sitk.ReadImage(f"{trainer.output_folder}/validation/{case}.nii.gz"))

    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    image = tiny / "raw" / "Dataset901_Tiny" / "imagesTr" / f"{case}_0000.nii.gz"
    array, properties = SimpleITKIO().read_images([str(image)])
    assert (predictor.predict_single_npy_array(array, properties) == validated).mean() > 0.999
    if name in PAIRS:
        assert isinstance(predictor.network, LogitMean) == (name == "CCTR")


@pytest.mark.parametrize(("inference", "students"), [("first", 1), ("second", 1), ("mean", 2)])
def test_only_what_predicts_is_in_network_weights(train, change_settings, inference, students):
    change_settings(CTS={"inference": inference}, schedule={"epochs": 1, "iterations_per_epoch": 1})
    trainer = train("nnUNetTrainerCTS")
    pair = trainer.pair.state_dict()
    prefix = {"first": "first.", "second": "second.", "mean": ""}[inference]
    expected = {k.removeprefix(prefix): v for k, v in pair.items() if k.startswith(prefix)}
    assert same(dict(content(trainer)["network_weights"]), expected)
    assert len({k.split(".")[0] for k in pair if k.startswith(prefix)}) == students


@pytest.mark.parametrize("name", METHODS)
def test_labels_of_unlabelled_cases_are_never_read(train, tiny, registered, name):
    folder = tiny / "preprocessed" / "Dataset901_Tiny"
    hidden = [*folder.glob("nnUNetPlans_2d/scan*_seg.b2nd"), *folder.glob("gt_segmentations/scan*")]
    hidden += (tiny / "raw" / "Dataset901_Tiny" / "labelsTr").glob("scan*")
    assert len(hidden) == 6
    for file in hidden:
        file.unlink()
    assert train(f"nnUNetTrainer{name}").current_epoch == 2


def terms_after(train, change_settings, name: str, steps: int = 2, **settings) -> dict[str, float]:
    change_settings(**{name: settings}, schedule={"epochs": 1, "iterations_per_epoch": steps})
    return train(f"nnUNetTrainer{name}").terms.rows[0]


def test_terms_switched_off_leave_the_method_below(train, change_settings, registered):
    """MCSC, MCSCv2 and CCT-R without their terms are CTS, which is two supervised networks without its own."""
    cts = terms_after(train, change_settings, "CTS")
    for name in ("MCSC", "MCSCv2"):
        bare = terms_after(train, change_settings, name, contrast_weight=0)
        assert bare == cts
        much = terms_after(train, change_settings, name, contrast_weight=10)
        assert much["supervised_first"] != cts["supervised_first"]
    bare = terms_after(train, change_settings, "CCTR", contrast_weight=0, rsl_weight=0, inference="first")
    assert bare == cts
    alone = terms_after(train, change_settings, "CTS", pseudo_weight=0)
    assert "pseudo_first" not in alone
    assert alone["loss"] == pytest.approx(alone["supervised_first"] + alone["supervised_second"], rel=1e-5)
    # AdamW's first step hardly sees a small weight.
    much = terms_after(train, change_settings, "CTS", pseudo_weight=1e3)
    assert much["supervised_first"] != alone["supervised_first"]


def test_every_term_of_the_thesis_ablation_can_be_switched_off(train, change_settings, registered):
    """Table 6.4: RSL, BRS, SCL and REPS one by one."""
    full = {"rsl_weight": 1.0, "choice": "best", "contrast_weight": 1.0, "reps": True}
    rows = {"full": terms_after(train, change_settings, "CCTR", 4, **full)}
    for off in ({"rsl_weight": 0.0}, {"choice": "random"}, {"contrast_weight": 0.0}, {"reps": False}):
        rows[next(iter(off))] = terms_after(train, change_settings, "CCTR", 4, **{**full, **off})
    assert "registered_first" not in rows["rsl_weight"]
    assert "contrast" not in rows["contrast_weight"]
    assert "with_partner" not in rows["reps"]
    assert 0 < rows["full"]["with_partner"] <= 1
    assert 0 < rows["full"]["bank_fill"] <= 1
    assert all(row["loss"] != rows["full"]["loss"] for name, row in rows.items() if name != "full")


def test_trains_through_a_template(train, change_settings, registered):
    """All volumes share the template's frame, so that pixels of labelled and unlabelled ones find each other."""
    store_of(scheme="template")
    row = terms_after(train, change_settings, "CCTR", 4, registration={"scheme": "template"})
    assert np.isfinite(row["registered_first"])
    assert 0 < row["with_partner"] <= 1
    trainer = train("nnUNetTrainerCCTR", stop=True)
    trainer.initialize()
    assert set(trainer.registered_cases(trainer.cases()).frames.values()) == {0}


def test_what_is_registered_anew_is_taken_over(train, change_settings, registered, capsys):
    def fails(case: str) -> None:
        for labelled in registered.partners(case):
            registered.write_pair(case, labelled, Registration(failure="turned upside down"))

    before = terms_after(train, change_settings, "CCTR")
    assert terms_after(train, change_settings, "CCTR") == before
    assert "2 of 2 unlabelled cases have registered labels" in capsys.readouterr().out
    fails("scan0")
    assert terms_after(train, change_settings, "CCTR")["registered_first"] != before["registered_first"]
    assert "1 of 2 unlabelled cases have registered labels" in capsys.readouterr().out
    # Without any it would be CTS under another name.
    fails("scan1")
    with pytest.raises(SystemExit) as stop:
        train("nnUNetTrainerCCTR")
    assert stop.value.code == 2
    assert "none of 2 unlabelled cases could be registered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("MeanTeacher", "teacher", "student"), ("MeanTeacher", "student", "teacher"), ("CPS", "first", "second"),
     ("CTS", "mean", "first"), ("CTS", "second", "mean")],
)  # fmt: skip
def test_another_network_may_predict_than_when_the_checkpoint_was_written(train, change_settings, name, before, after):
    change_settings(**{name: {"inference": before}}, schedule={"epochs": 1})
    trainer = train(f"nnUNetTrainer{name}")
    whole, side, weights = trainer.network.state_dict(), trainer.training_state(), content(trainer)["network_weights"]
    change_settings(**{name: {"inference": after}})
    other = train(f"nnUNetTrainer{name}", resume=True)
    assert other.current_epoch == 1  # nothing was left to train
    assert same(dict(other.network.state_dict()), dict(whole))
    assert same(other.training_state(), side)
    # The model folder is now one of what predicts now.
    written = content(other)["network_weights"]
    assert same(dict(written), dict(other.inference_module().state_dict()))
    assert not same(dict(written), dict(weights))
    plans = json.loads(Path(other.output_folder_base, "plans.json").read_text())
    assert plans["configurations"]["2d"]["nnunet_ext"][name]["inference"] == after


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patches": [0]}, "greater than or equal to 1"),
        ({"scales": [0]}, "greater than or equal to 1"),
        ({"scales": []}, "at least 1 item"),
    ],
)
def test_settings_that_cannot_work_are_refused(train, change_settings, capsys, settings, message):
    change_settings(MCSC=settings)
    with pytest.raises(SystemExit) as stop:
        train("nnUNetTrainerMCSC", stop=True)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_cascade_is_refused(train, tiny, capsys):
    plans = tiny / "preprocessed" / "Dataset901_Tiny" / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    content["configurations"]["3d_lowres"] = content["configurations"]["3d_fullres"] | {
        "next_stage": "3d_cascade_fullres"
    }
    content["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stop:
        train("nnUNetTrainerCTS", "3d_cascade_fullres")
    assert stop.value.code == 2
    assert "-c 3d_cascade_fullres: goes on from another configuration's masks" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["MCSC", "MCSCv2", "CCTR"])
def test_a_scaled_loss_moves_the_weights_alike(train, change_settings, registered, name):
    """Mixed precision on a GPU scales the loss: gradients of students and projectors must be scaled back."""
    change_settings(**{name: {"contrast_weight": 1.0}})

    def weights(scaler: torch.amp.GradScaler | None) -> list[torch.Tensor]:
        trainer = train(f"nnUNetTrainer{name}", stop=True)
        trainer.initialize()
        trainer.grad_scaler = scaler
        training, validation = trainer.get_dataloaders()
        torch.manual_seed(0)
        for _ in range(2):
            trainer.train_step(next(training))
        for loader in (training, validation):
            loader.close()
        return [p.detach() for p in (*trainer.network.parameters(), *trainer.contrast.parameters())]

    plain, scaled = weights(None), weights(torch.amp.GradScaler("cpu", init_scale=2.0**10))
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(plain, scaled, strict=True))


def dice_cost(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """One minus the mean soft Dice over all classes, pixel by pixel over the whole batch."""
    shares, classes = logits.softmax(1), range(logits.shape[1])
    pixels = [(n, y, x) for n in range(len(labels)) for y in range(labels.shape[1]) for x in range(labels.shape[2])]
    scores = []
    for c in classes:
        both = sum(shares[n, c, y, x].item() for n, y, x in pixels if labels[n, y, x] == c)
        size = sum(shares[n, c, y, x].item() + (labels[n, y, x] == c).item() for n, y, x in pixels)
        scores.append((2 * both + 1e-5) / (size + 1e-5))
    return 1 - float(np.mean(scores))


def test_objective_is_the_printed_sum(train, change_settings, registered):
    """Eq. 6.6 on logits given by hand: one labelled image, then one registered and one that could not be."""
    change_settings(CCTR={"contrast_weight": 0.0, "pseudo_weight": 2.0, "rsl_weight": 3.0})
    trainer = train("nnUNetTrainerCCTR", stop=True)
    trainer.initialize()
    trainer.registered = SimpleNamespace(frames={"there": 0, "failed": -1})
    trainer.iteration = trainer.updates  # the ramp is at its end
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 3, 6, 5)
    truth = torch.randint(0, 3, (1, 1, 6, 5))
    carried = torch.randint(0, 4, (2, 1, 6, 5))  # 3 is the ignore label, which travels with the labelled case
    batch = {"unlabelled_following_labels": carried, "unlabelled_keys": ["there", "failed"]}
    loss, terms = trainer.objective((Output([first], []), Output([second], [])), [truth], 1, batch)

    expected = 0.0
    for own, other in ((first, second), (second, first)):
        expected += trainer.full_loss(own[:1], truth).item()
        expected += 2 * dice_cost(own[1:], other[1:].argmax(1))
        known = carried[0, 0] < 3
        pixels, labels = own[1][:, known][None, ..., None], carried[0, 0][known][None, :, None]
        cross_entropy = -pixels.log_softmax(1).gather(1, labels[:, None]).mean().item()
        expected += 3 * (cross_entropy + dice_cost(pixels, labels))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert terms["registered_weight"] == 3.0


@pytest.mark.parametrize(
    ("name", "setting", "before", "after", "told"),
    [
        ("MCSC", "contrast_weight", 0.0, 1e-3, "MCSC.contrast_weight switched off"),
        ("MCSC", "contrast_weight", 1e-3, 0.0, "its optimiser does not fit"),
        ("MCSC", "dim", 8, 6, "the checkpoint's projectors: "),
        ("MCSCv2", "bank", 2, 500, "MCSCv2.bank: bank: 2 rows"),
    ],
)
def test_a_setting_changed_since_the_checkpoint_is_named(
    train, change_settings, capsys, name, setting, before, after, told
):
    change_settings(**{name: {setting: before}}, schedule={"epochs": 1})
    done = Path(train(f"nnUNetTrainer{name}").output_folder)
    (done / "checkpoint_final.pth").rename(done / "checkpoint_latest.pth")
    change_settings(**{name: {setting: after}})
    with pytest.raises(SystemExit) as stop:
        train(f"nnUNetTrainer{name}", resume=True)
    assert stop.value.code == 2
    assert told in capsys.readouterr().err


def test_the_labelled_half_of_two_patches_sees_foreground_too(train, change_settings):
    """nnU-Net's rule, a whole number of a batch's patches, would leave the one labelled patch of 3D's two without."""
    trainer = train("nnUNetTrainerCTS", "3d_fullres", stop=True)
    trainer.initialize()
    assert trainer.batch_size == 2
    streams = trainer.training_batches(trainer.cases(), trainer.augmentation())
    np.random.seed(0)
    forced = sum(streams.labelled.get_do_oversample(0) for _ in range(300)) / 300
    assert forced == pytest.approx(trainer.oversample_foreground_percent, abs=0.1)
    assert not any(streams.unlabelled.get_do_oversample(0) for _ in range(50))


def test_scans_that_are_turned_when_read_are_refused(train, tiny, registered, capsys):
    plans = tiny / "preprocessed" / "Dataset901_Tiny" / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    content["image_reader_writer"] = "SimpleITKIOWithReorient"
    plans.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as stop:
        train("nnUNetTrainerCCTR")
    assert stop.value.code == 2
    assert "image_reader_writer SimpleITKIOWithReorient turns the scans" in capsys.readouterr().err


def test_what_is_logged(train, change_settings):
    row = terms_after(train, change_settings, "MCSCv2")
    named = {"supervised_first", "supervised_second", "pseudo_first", "pseudo_second", "contrast"}
    named |= {"certain_first", "certain_second", "bank_fill", "pseudo_label_dice_first", "pseudo_label_dice_second"}
    assert named <= row.keys()
    assert 0 <= row["certain_first"] <= 1
    assert row["pseudo_weight"] == pytest.approx(0.1 * (np.exp(-5) + np.exp(-1.25)) / 2)
    total = row["supervised_first"] + row["supervised_second"] + 1e-3 * row["contrast"]
    assert row["loss"] > total
    assert 0 <= row["pseudo_label_dice_first"] <= 1


def test_pseudo_label_dice_of_the_student_that_predicts_is_nnunets_own(train, change_settings):
    row = terms_after(train, change_settings, "CTS", inference="second")
    assert row["pseudo_label_dice_second"] == pytest.approx(row["validation_dice"], abs=1e-6)


@pytest.mark.parametrize(
    ("first", "student"), [("plans", "plans"), ("SwinUNet", "SwinUNet"), ("plans", "CSUNet"), ("SwinUNet", "plans")]
)
def test_any_two_students(train, change_settings, first, student):
    """Table 5.6."""
    change_settings(CSUNet=TRANSFORMER)
    row = terms_after(train, change_settings, "MCSC", first=first, student=student)
    assert row["supervised_first"] != row["supervised_second"]


def test_learning_rates_follow_the_kind_of_student(train, change_settings):
    change_settings(CTS={"first": "SwinUNet", "student": "plans", "lr_plans": 0.5, "lr_transformer": 0.25})
    trainer = train("nnUNetTrainerCTS", stop=True)
    trainer.initialize()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.25, 0.5]
    assert sum(len(g["params"]) for g in trainer.optimizer.param_groups) == len(list(trainer.network.parameters()))


def test_a_dataset_without_unlabelled_cases_is_refused(train, tiny, capsys):
    file = tiny / "preprocessed" / "Dataset901_Tiny" / "dataset.json"
    content = json.loads(file.read_text())
    content["nnunet_ext"]["unlabelled"] = []
    file.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as error:
        train("nnUNetTrainerMCSC")
    assert error.value.code == 2
    assert "no case of this fold is unlabelled" in capsys.readouterr().err


def test_an_unregistered_dataset_is_refused(train, tiny, capsys):
    with pytest.raises(SystemExit) as error:
        train("nnUNetTrainerCCTR")
    assert error.value.code == 2
    assert "nnunet_ext register -d Dataset901_Tiny -f 0 --transform deformable" in capsys.readouterr().err


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_registered_labels_and_places_follow_the_image(train, registered, configuration):
    """After cropping, rotation, scaling and mirroring every pixel still knows its place in its frame."""
    trainer = train("nnUNetTrainerCCTR", configuration, stop=True)
    trainer.initialize()
    training, _ = trainer.get_dataloaders()
    labels = {q: registered.cases.labels(q) for q in registered.cases.labelled}
    frames = sorted(labels)

    def label_at(frame: str, position: np.ndarray) -> np.ndarray:
        image = labels[frame]
        to_index = np.linalg.inv(np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing())
        index = np.rint((position.T - image.GetOrigin()) @ to_index.T).astype(int)
        inside = ((index >= 0) & (index < image.GetSize())).all(1)
        x, y, z = np.where(inside[:, None], index, 0).T
        return np.where(inside, sitk.GetArrayViewFromImage(image)[z, y, x], 0)

    agree: list[np.ndarray] = []
    for _ in range(4):
        batch = next(training)
        for side, truth in (("", batch["target"][0]), ("unlabelled_", batch["unlabelled_following_labels"])):
            for key, place, expected in zip(
                batch[f"{side}keys"], batch[f"{side}regression_target"], truth, strict=True
            ):
                frame = frames[trainer.registered.frames[key]]
                assert frame == (key if side == "" else registered.best(key))
                placed = place[3] > 0.999
                got = label_at(frame, place[:3, placed].numpy())
                agree.append(got == expected[0][placed].numpy())
    assert np.concatenate(agree).mean() > 0.96  # borders differ by interpolation
    assert len(np.concatenate(agree)) > 2000


def test_choice_of_registered_labels(train, change_settings, registered):
    from nnunet_ext.training.registered import from_store

    case = "scan0"
    best = from_store(registered, "best", 0)(case)
    assert best is not None
    assert best.frame == registered.best(case)
    image = registered.cases.image(case)
    transform = registered.transform(best.frame, case)
    expected = sitk.GetArrayFromImage(propagate(registered.cases.labels(best.frame), image, transform))
    assert (best.label == expected).all()
    drawn = {from_store(registered, "random", seed)(case).label.tobytes() for seed in range(12)}
    assert len(drawn) > 1
    fused = from_store(registered, "fused", 0)(case)
    assert (fused.label == sitk.GetArrayFromImage(registered.propagated_label(case))).all()
    assert from_store(registered, "best", 0)("case0").label is None


def test_a_case_whose_registrations_failed_takes_no_part(train, change_settings, registered):
    for labelled in registered.partners("scan0"):
        registered.write_pair("scan0", labelled, Registration(failure="nothing found"))
    trainer = train("nnUNetTrainerCCTR")
    assert trainer.registered.frames["scan0"] == -1
    assert trainer.registered.frames["scan1"] >= 0
    assert np.isfinite([value for row in trainer.terms.rows for value in row.values()]).all()
