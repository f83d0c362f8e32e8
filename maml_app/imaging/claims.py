"""What the header of a file says that it holds, read by itself: strictly, and following no pointer."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from maml_app.errors import ImageError
from maml_app.imaging.nrrd_file import read_header

MOST_VOXELS = 4_000_000_000
NIFTI_1, NIFTI_2 = 348, 540  # sizeof_hdr
# datatype codes of numbers, with bytes a voxel (nifti1.h, DT_*)
NUMBERS = {2: 1, 4: 2, 8: 4, 16: 4, 64: 8, 256: 1, 512: 2, 768: 4, 1024: 8, 1280: 8}
LONGEST_EXTENSION = 64_000_000  # bytes between header and voxels
SPARE = 1_000_000  # bytes after the voxels, as some programs leave


@dataclass(frozen=True)
class _Claim:
    """What a NIfTI header says: the shape, where the voxels begin, and how many bytes each takes."""

    shape: tuple[int, ...]
    offset: int
    voxel_bytes: int


def claimed_shape(path: Path) -> tuple[int, ...]:
    """The shape that a NIfTI or NRRD file claims, without trailing sides of 1.

    Raises:
        ImageError: no such file, damaged, or of a kind that is not read: pointing elsewhere, complex, compound.
    """
    shape = read_header(path).shape if path.name.lower().endswith(".nrrd") else nifti_shape(path)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > MOST_VOXELS:
        raise ImageError(f"{path.name}: expected a 3D image of at most {MOST_VOXELS:g} voxels, got shape {shape}")
    return shape


def nifti_shape(path: Path) -> tuple[int, ...]:
    """The shape that a NIfTI file claims. Raises ImageError as `claimed_shape`."""
    return _checked(path, _start(path)).shape


def unpacked(path: Path) -> bytes:
    """The content of a NIfTI file in gzip, to its end, where the checksum (RFC 1952) tells damaged voxels.

    No more is unpacked than the header claims.

    Raises:
        ImageError: it is truncated or damaged, or holds more than it claims.
    """
    claim = _checked(path, _start(path))
    most = claim.offset + math.prod(claim.shape) * claim.voxel_bytes + SPARE
    packed, content = path.read_bytes(), bytearray()
    try:
        while packed[:2] == b"\x1f\x8b":
            member = zlib.decompressobj(wbits=31)
            content += member.decompress(packed, most + 1 - len(content))
            if len(content) > most:
                raise ImageError(f"{path}: expected {' x '.join(map(str, claim.shape))} voxels, got more than that")
            if not member.eof:
                raise EOFError("the file ends too early")
            packed = member.unused_data
    except (EOFError, zlib.error) as error:
        raise ImageError(f"{path}: expected a whole gzip file, got a truncated or damaged one ({error})") from None
    return bytes(content)


def _start(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ImageError(f"{path.name}: expected a NIfTI file, got none")
        with path.open("rb") as raw:
            packed = path.name.lower().endswith(".gz")
            return gzip.GzipFile(fileobj=raw).read(NIFTI_2) if packed else raw.read(NIFTI_2)
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError(
            f"{path.name}: expected a NIfTI file, got something else or a damaged file ({error})"
        ) from None


def _checked(path: Path, start: bytes) -> _Claim:
    """Fields of nifti1.h and nifti2.h, by their places."""
    for order in "<>":
        if len(start) >= NIFTI_1 and struct.unpack_from(f"{order}i", start)[0] == NIFTI_1:
            magic, sides = start[344:348], struct.unpack_from(f"{order}8h", start, 40)
            (kind,), (offset,) = struct.unpack_from(f"{order}h", start, 70), struct.unpack_from(f"{order}f", start, 108)
            size, single = NIFTI_1, b"n+1\0"
            break
        if len(start) >= NIFTI_2 and struct.unpack_from(f"{order}i", start)[0] == NIFTI_2:
            magic, sides = start[4:8], struct.unpack_from(f"{order}8q", start, 16)
            (kind,), (offset,) = struct.unpack_from(f"{order}h", start, 12), struct.unpack_from(f"{order}q", start, 168)
            size, single = NIFTI_2, b"n+2\0"
            break
    else:
        raise ImageError(f"{path.name}: expected a NIfTI file, got something else or a damaged header")
    wrong = ""
    if magic != single:
        wrong = f"the voxels in the same file, got magic {magic!r}"
    elif kind not in NUMBERS:
        wrong = f"numbers as voxels, got datatype {kind}"
    elif not 1 <= sides[0] <= 7:
        wrong = f"1 to 7 dimensions, got {sides[0]}"
    elif not (math.isfinite(offset) and size <= offset <= size + LONGEST_EXTENSION):
        wrong = f"the voxels right after the header, got offset {offset:g}"
    if wrong:
        raise ImageError(f"{path.name}: expected {wrong}")
    return _Claim(tuple(int(side) for side in sides[1 : sides[0] + 1]), int(offset), NUMBERS[kind])
