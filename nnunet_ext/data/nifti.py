"""What ITK does not tell about a NIfTI file: whether all of it is there, and what its header really says."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from nnunet_ext.errors import InputError, reason

NIFTI_ENDINGS = (".nii", ".nii.gz")
HEADERS = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}


def require_complete(path: Path) -> Any:
    """Refuse a file that is cut off: ITK would fill what it lacks with zeros and say nothing.

    Args:
        path: a file of `NIFTI_ENDINGS`.

    Returns:
        nibabel's header as it is in the file: reading the image would already mend it.

    Raises:
        InputError: for a file without a NIfTI header, or one shorter than its header announces.
    """
    try:
        header = _header(path)
        voxels = int(np.prod(header.get_data_shape(), dtype=np.int64))
        end = int(header["vox_offset"]) + voxels * int(header["bitpix"]) // 8
        there = _bytes(path)
    except EOFError:
        raise InputError(f"{path}: truncated, its gzip stream has no end, an intact scan is needed") from None
    except (HeaderDataError, WrapStructError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not readable as NIfTI ({reason(error)}), an intact scan is needed") from None
    if there < end:
        raise InputError(f"{path}: truncated, {there} bytes where its header announces {end}, an intact scan is needed")
    return header


def _header(path: Path) -> Any:
    with ImageOpener(str(path)) as stream:
        first = stream.read(4)
        stream.seek(0)
        kind = HEADERS.get(int.from_bytes(first, "little")) or HEADERS.get(int.from_bytes(first, "big"))
        if kind is None:
            raise HeaderDataError("it does not begin as NIfTI does")
        return kind.from_fileobj(stream, check=False)


def _bytes(path: Path) -> int:
    """How many bytes of content there are; of a gzip stream, read to its checksum."""
    if not path.name.endswith(".gz"):
        return path.stat().st_size
    with gzip.open(path, "rb") as stream:
        return sum(len(block) for block in iter(lambda: stream.read(1 << 20), b""))
