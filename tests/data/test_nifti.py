"""What is told about a NIfTI file that ITK would read without a word."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from nnunet_ext.data.nifti import require_complete
from nnunet_ext.errors import InputError

SHAPE = (4, 3, 5)
CONTENT = 4 * 3 * 5 * 4  # float32


def saved(path: Path, kind: type = nibabel.Nifti1Image, order: str = "<") -> Path:
    image = kind(np.arange(60, dtype=np.float32).reshape(SHAPE), np.diag([1.5, 2, 8, 1]))
    image.header.set_data_dtype(np.dtype("f4"))
    nibabel.save(kind(image.dataobj, image.affine, image.header.as_byteswapped(order)), path)
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_header_of_a_whole_file_is_given_as_it_is(tmp_path: Path, ending: str, kind: type, order: str) -> None:
    header = require_complete(saved(tmp_path / f"a{ending}", kind, order))
    assert header.endianness == order
    assert header.get_data_shape() == SHAPE
    assert header["pixdim"][1:4].tolist() == [1.5, 2, 8]


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_one_byte_short(tmp_path: Path, kind: type) -> None:
    path = saved(tmp_path / "a.nii", kind)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    start = len(whole) - CONTENT
    message = f"truncated, {start + CONTENT - 1} bytes where its header announces {start + CONTENT}"
    with pytest.raises(InputError, match=message):
        require_complete(path)
    # The same within a whole gzip stream, as an interrupted export leaves it.
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(whole[:-1]))
    with pytest.raises(InputError, match=message):
        require_complete(packed)


def test_a_gzip_stream_without_its_end(tmp_path: Path) -> None:
    """Also where only the checksum is missing, so that every voxel is there: nothing vouches for them."""
    path = saved(tmp_path / "a.nii.gz")
    whole = path.read_bytes()
    for lost in (1, 8, len(whole) // 4):
        path.write_bytes(whole[:-lost])
        with pytest.raises(InputError, match="truncated, its gzip stream has no end"):
            require_complete(path)
    path.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(InputError, match=r"not readable as NIfTI \(CRC"):
        require_complete(path)


@pytest.mark.parametrize("content", [b"", b"abc", b"no image at all", bytes(400)])
def test_no_nifti_at_all(tmp_path: Path, content: bytes) -> None:
    for name, stored in (("a.nii", content), ("b.nii.gz", content), ("c.nii.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(stored)
        with pytest.raises(InputError, match=f"{name}: .*an intact scan is needed") as caught:
            require_complete(tmp_path / name)
        assert "\n" not in str(caught.value)
