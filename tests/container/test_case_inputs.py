"""Bad and unusual input of one case: what is processed, what is refused, and that nothing is left behind."""

from __future__ import annotations

import gzip
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from made_models import made_scan
from program_harness import RELATIVE, SLUG, Case

from container.case import process_case
from container.inputs import case_files
from nnunet_ext.errors import InputError
from nnunet_ext.inference.predictor import Predictor
from nnunet_ext.inference.sockets import Sockets

OTHER = ("bone-ct", "images/bone")


def refused(predictor: Predictor, case: Case, match: str) -> None:
    """The case is refused in one line that matches, and the output is empty."""
    with pytest.raises(InputError, match=match) as error:
        process_case(predictor, case.input, case.output)
    assert "\n" not in str(error.value)
    assert case.written() == []


def mask_array(predictor: Predictor, case: Case) -> np.ndarray:
    process_case(predictor, case.input, case.output)
    return sitk.GetArrayFromImage(case.mask())


@pytest.mark.parametrize("keys", [("socket",), ("interface",), ("socket", "interface")], ids="+".join)
def test_sockets_by_either_name(predictor: Predictor, case: Case, keys: tuple[str, ...]) -> None:
    case.list_sockets((SLUG, RELATIVE), keys=keys)
    process_case(predictor, case.input, case.output)
    mask = case.mask()
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert mask.GetNumberOfComponentsPerPixel() == 1


def test_sockets_in_any_order_feed_their_own_channels(case: Case) -> None:
    first, second = ("t1", "images/t1"), ("t2", "images/t2")
    for slug, folder in (first, second):
        case.put(made_scan(), folder, f"{slug}.mha")
    expected = [case.input / "images/t1/t1.mha", case.input / "images/t2/t2.mha"]
    for order in ((first, second), (second, first)):
        case.list_sockets(*order)
        assert case_files(case.input, Sockets(inputs=("t1", "t2")), 2) == expected


def test_directory_unlike_the_slug(predictor: Predictor, case: Case) -> None:
    case.list_sockets((SLUG, "images/some/other-place"))
    case.put(made_scan(), "images/some/other-place")
    process_case(predictor, case.input, case.output)
    assert case.mask().GetSize() == made_scan().GetSize()


def test_input_may_be_a_symlink(predictor: Predictor, case: Case, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(case.input)
    process_case(predictor, tmp_path / "link", case.output)
    assert case.mask().GetSize() == made_scan().GetSize()


def test_a_tif_stack_is_read(predictor: Predictor, case: Case) -> None:
    (case.input / RELATIVE / "0a1b.mha").unlink()
    case.put(made_scan(), name="0a1b.tif")
    process_case(predictor, case.input, case.output)
    assert case.mask().GetSize() == made_scan().GetSize()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{not json", "inputs.json: not readable as JSON"),
        ({"socket": {}}, "inputs.json: dict, a list of sockets is needed"),
        ([{"value": 1}], "inputs.json: entry 0 has no socket"),
        ([{"socket": {"slug": SLUG, "relative_path": "../secret"}}], "a path inside the input is needed"),
        ([], "image sockets none, exactly one is needed"),
    ],
    ids=["no JSON", "no list", "no socket", "outside", "empty"],
)
def test_invalid_inputs_json(predictor: Predictor, case: Case, content: Any, match: str) -> None:
    case.put_inputs(content)
    refused(predictor, case, match)


def test_missing_inputs_json(predictor: Predictor, case: Case) -> None:
    (case.input / "inputs.json").unlink()
    refused(predictor, case, "inputs.json: no such file")


def test_unknown_socket(case: Case) -> None:
    case.list_sockets(OTHER)
    with pytest.raises(InputError, match=rf"sockets bone-ct, the model needs {SLUG}"):
        case_files(case.input, Sockets(inputs=(SLUG,)), 1)


def test_a_socket_that_the_model_does_not_use_is_left_alone(case: Case) -> None:
    case.list_sockets(OTHER, (SLUG, RELATIVE))
    assert case_files(case.input, Sockets(inputs=(SLUG,)), 1) == [case.input / RELATIVE / "0a1b.mha"]


def test_a_value_beside_the_only_image(predictor: Predictor, case: Case) -> None:
    entries = json.loads((case.input / "inputs.json").read_text())
    entries.insert(0, {"socket": {"slug": "age", "relative_path": "age.json", "kind": "Integer"}, "value": 71})
    case.put_inputs(entries)
    process_case(predictor, case.input, case.output)
    assert case.mask().GetSize() == made_scan().GetSize()


def test_two_images_in_one_slot(predictor: Predictor, case: Case) -> None:
    case.put(made_scan(), name="second.mha")
    refused(predictor, case, r"2 images \(0a1b.mha, second.mha\), exactly one")


def test_empty_slot(predictor: Predictor, case: Case) -> None:
    (case.input / RELATIVE / "0a1b.mha").unlink()
    refused(predictor, case, r"0 images \(none\), exactly one")


def mha(case: Case) -> tuple[bytes, bytes]:
    """Header and voxels of the case's file."""
    head, _, voxels = (case.input / RELATIVE / "0a1b.mha").read_bytes().partition(b"ElementDataFile = LOCAL\n")
    return head, voxels


def with_header(case: Case, key: str, value: str) -> bytes:
    head, voxels = mha(case)
    lines = [f"{key} = {value}".encode() if line.startswith(f"{key} ".encode()) else line for line in head.splitlines()]
    assert head.splitlines() != lines
    return b"\n".join(lines) + b"\nElementDataFile = LOCAL\n" + voxels


def test_zero_byte_file(predictor: Predictor, case: Case) -> None:
    case.put(b"")
    refused(predictor, case, "0 bytes, a scan is needed")


def test_corrupt_file(predictor: Predictor, case: Case) -> None:
    case.put(bytes(range(256)) * 20)
    refused(predictor, case, "not readable as an image")


def test_truncated_file(predictor: Predictor, case: Case) -> None:
    head, voxels = mha(case)
    case.put(head + b"ElementDataFile = LOCAL\n" + voxels[:-100])
    refused(predictor, case, "not readable as an image")


def test_zero_spacing(predictor: Predictor, case: Case) -> None:
    case.put(with_header(case, "ElementSpacing", "1.5 0 8"))
    refused(predictor, case, "not readable as an image.*spacing")


def test_singular_direction(predictor: Predictor, case: Case) -> None:
    case.put(with_header(case, "TransformMatrix", "1 0 0 1 0 0 0 0 1"))
    refused(predictor, case, "determinant|singular|direction")


def test_sheared_direction(predictor: Predictor, case: Case) -> None:
    case.put(with_header(case, "TransformMatrix", "1 0 0 0.3 1 0 0 0 1"))
    refused(predictor, case, "sheared direction matrix")


def test_several_components(predictor: Predictor, case: Case) -> None:
    case.put(sitk.Compose(made_scan(), made_scan()))
    refused(predictor, case, "2 components per voxel, one is needed")


def test_4d_scan(predictor: Predictor, case: Case) -> None:
    case.put(sitk.JoinSeries(made_scan(), made_scan()))
    refused(predictor, case, "4D .*a 3D scan is needed")


def test_2d_scan(predictor: Predictor, case: Case) -> None:
    case.put(made_scan()[:, :, 0])
    refused(predictor, case, "2D .*a 3D scan is needed")


def test_nan_and_infinity(predictor: Predictor, case: Case) -> None:
    for value in (math.nan, math.inf, 1e300):
        image = sitk.Cast(made_scan(), sitk.sitkFloat64)
        image[3, 4, 1] = value
        case.put(image)
        refused(predictor, case, "1 voxels are NaN or infinite")


def test_wrong_channel_count(predictor: Predictor, case: Case) -> None:
    case.put(made_scan(), OTHER[1])
    case.list_sockets((SLUG, RELATIVE), OTHER)
    refused(predictor, case, f"image sockets {SLUG}, bone-ct, exactly one is needed")
    with pytest.raises(InputError, match="a model of 2 channels needs one slug for each"):
        case_files(case.input, Sockets(), 2)


@pytest.mark.parametrize("what", ["origin", "spacing", "direction", "size"])
def test_channels_with_different_geometry(case: Case, what: str) -> None:
    from nnunet_ext.inference.images import read_scan

    other = made_scan(1)
    if what == "origin":
        other.SetOrigin((0, 0, 0))
    elif what == "spacing":
        other.SetSpacing((1.4, 1.3, 8.5))
    elif what == "direction":
        other.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    else:
        other = other[1:, :, :]
    paths = [case.input / RELATIVE / "0a1b.mha", case.put(other, "images/other")]
    with pytest.raises(InputError, match=str(paths[1])):
        read_scan(paths)


def rotation(degrees: float) -> np.ndarray:
    a, b = math.radians(degrees), math.radians(degrees / 2)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    return about_x @ about_z


@pytest.mark.parametrize(
    "direction",
    [rotation(31.7), np.diag([-1.0, -1, 1]), np.diag([1.0, 1, -1]), rotation(112) @ np.diag([1.0, -1, 1])],
    ids=["oblique", "flipped in plane", "flipped along z", "oblique and left-handed"],
)
def test_directions_survive(predictor: Predictor, case: Case, direction: np.ndarray) -> None:
    image = made_scan()
    image.SetDirection(direction.ravel())
    case.put(image)
    process_case(predictor, case.input, case.output)
    mask = case.mask()
    assert mask.GetSize() == image.GetSize()
    for theirs, ours in (
        (image.GetSpacing(), mask.GetSpacing()),
        (image.GetOrigin(), mask.GetOrigin()),
        (image.GetDirection(), mask.GetDirection()),
    ):
        assert np.allclose(theirs, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("spacing", [(0.35, 0.35, 0.35), (0.35, 0.35, 5.0), (5.0, 5.0, 5.0), (1.5, 5.0, 0.35)])
def test_spacings_from_035_to_5_mm(predictor: Predictor, case: Case, spacing: tuple[float, ...]) -> None:
    case.put(made_scan(size=(24, 20, 4), spacing=spacing))
    process_case(predictor, case.input, case.output)
    assert case.mask().GetSize() == (24, 20, 4)
    assert np.allclose(case.mask().GetSpacing(), spacing, rtol=0, atol=1e-6)


def test_voxel_types_of_one_scan_give_one_mask(predictor: Predictor, case: Case) -> None:
    scan = sitk.Cast(sitk.RescaleIntensity(made_scan(), 0, 255), sitk.sitkUInt8)
    masks = []
    for kind in (sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkFloat64):
        case.put(sitk.Cast(scan, kind))
        masks.append(mask_array(predictor, case))
    assert len(np.unique(masks[0])) > 1
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


def test_constant_scan_has_an_empty_mask(predictor: Predictor, case: Case) -> None:
    for value in (0, -1000, 7):
        case.put(made_scan() * 0 + value)
        assert not mask_array(predictor, case).any()


def test_the_same_case_twice_is_identical(predictor: Predictor, case: Case) -> None:
    process_case(predictor, case.input, case.output)
    first = (case.output / "images/segmentation/segmentation.mha").read_bytes()
    process_case(predictor, case.input, case.output)
    assert (case.output / "images/segmentation/segmentation.mha").read_bytes() == first


def test_a_failed_case_does_not_leave_the_mask_of_the_one_before(predictor: Predictor, case: Case) -> None:
    process_case(predictor, case.input, case.output)
    case.put(b"")
    refused(predictor, case, "0 bytes")


def nifti(tmp_path: Path, *, offset: int, values: bytes, compress: bool = False) -> Path:
    """A NIfTI file of a made scan with some bytes of its header replaced."""
    plain = tmp_path / "plain.nii"
    image = made_scan()
    image.SetDirection(rotation(20).ravel())
    sitk.WriteImage(image, str(plain))
    content = bytearray(plain.read_bytes())
    content[offset : offset + len(values)] = values
    changed = tmp_path / ("a.nii.gz" if compress else "a.nii")
    changed.write_bytes(gzip.compress(bytes(content)) if compress else bytes(content))
    return changed


PIXDIM_1, SROW_X = 80, 280


@pytest.mark.parametrize(
    ("offset", "values", "match"),
    [
        (PIXDIM_1, struct.pack("<f", 0), "spacing 0 x"),
        (PIXDIM_1, struct.pack("<f", math.nan), "spacing nan x"),
        (SROW_X, struct.pack("<4f", 1, 0.7, 0, 0), "sheared direction matrix"),
        (SROW_X, struct.pack("<12f", 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 8, 0), "singular direction matrix"),
    ],
    ids=["zero spacing", "NaN spacing", "sheared", "singular"],
)
def test_nifti_headers_that_itk_would_let_pass(tmp_path: Path, offset: int, values: bytes, match: str) -> None:
    from nnunet_ext.inference.images import read_scan

    with pytest.raises(InputError, match=match):
        read_scan([nifti(tmp_path, offset=offset, values=values)])


@pytest.mark.parametrize("compress", [False, True], ids=[".nii", ".nii.gz"])
def test_a_truncated_nifti_is_not_filled_with_zeros(tmp_path: Path, compress: bool) -> None:
    from nnunet_ext.inference.images import read_scan

    path = nifti(tmp_path, offset=0, values=b"", compress=compress)
    assert read_scan([path]).channels.shape == (1, 5, 40, 45)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="truncated"):
        read_scan([path])
