"""NRRD files (teem.sourceforge.net/nrrd/format.html): a header of lines, an empty line, and the voxels after it.

The format can point out of the file (`data file`), and have any number of lines or bytes skipped: such files are
refused, and no more is unpacked than the header's sizes say.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maml_app.errors import GridError, ImageError
from maml_app.imaging.volume import Array, Volume

LONGEST_HEADER = 1_000_000  # bytes
GZIP = 16 + zlib.MAX_WBITS
TYPES = {
    "int8": "i1", "signed char": "i1", "int8_t": "i1",
    "uint8": "u1", "uchar": "u1", "unsigned char": "u1", "uint8_t": "u1",
    "int16": "i2", "short": "i2", "short int": "i2", "signed short": "i2", "signed short int": "i2", "int16_t": "i2",
    "uint16": "u2", "ushort": "u2", "unsigned short": "u2", "unsigned short int": "u2", "uint16_t": "u2",
    "int32": "i4", "int": "i4", "signed int": "i4", "int32_t": "i4",
    "uint32": "u4", "uint": "u4", "unsigned int": "u4", "uint32_t": "u4",
    "int64": "i8", "longlong": "i8", "long long": "i8", "int64_t": "i8",
    "uint64": "u8", "ulonglong": "u8", "unsigned long long": "u8", "uint64_t": "u8",
    "float": "f4", "double": "f8",
}  # fmt: skip
TO_RAS = {
    "left-posterior-superior": (-1.0, -1.0, 1.0), "lps": (-1.0, -1.0, 1.0),
    "right-anterior-superior": (1.0, 1.0, 1.0), "ras": (1.0, 1.0, 1.0),
}  # fmt: skip
# these say nothing that is needed here; every other field is refused
IDLE = {"dimension", "kinds", "centers", "centerings", "labels", "units", "space units", "thicknesses", "spacings"}
IDLE |= {"content", "measurement frame", "space dimension", "number", "min", "max", "old min", "old max", "axis mins"}
IDLE |= {"axismins", "axis maxs", "axismaxs", "sample units"}
USED = {"type", "sizes", "encoding", "endian", "space", "space directions", "space origin"}


@dataclass(frozen=True)
class Header:
    """What an NRRD file says of itself.

    Attributes:
        shape: sides in file order, fastest first.
        affine: voxel -> RAS, mm, (4, 4); only of 3D files.
        begins: byte at which the voxels begin.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    gzipped: bool
    affine: Array | None
    begins: int


def read_header(path: Path) -> Header:
    """Read and check the header alone.

    Raises:
        ImageError: no NRRD, fields that are not read here, or values that cannot be.
    """
    try:
        if not path.is_file():
            raise ImageError(f"{path.name}: expected an NRRD file, got none")
        with path.open("rb") as file:
            start = file.read(LONGEST_HEADER)
    except OSError as error:
        raise ImageError(f"{path.name}: expected an NRRD file that can be read ({error.strerror})") from None
    head, empty, _ = start.partition(b"\n\n")
    begins = len(head) + 2
    if b"\r\n\r\n" in start[: len(head) + 1]:
        head, empty, _ = start.partition(b"\r\n\r\n")
        begins = len(head) + 4
    if not start.startswith(b"NRRD000") or not empty:
        raise ImageError(f"{path.name}: expected an NRRD label map, got something else or a header without an end")
    try:
        return _header(_fields(head.decode("utf-8")), begins)
    except (KeyError, ValueError) as error:
        said = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise ImageError(f"{path.name}: expected an NRRD label map in LPS or RAS space, got: {said}") from None


def _fields(text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        if line.startswith("#") or ":=" in line:  # a comment, or a key of some program's own
            continue
        name, colon, value = line.partition(": ")
        name = name.strip().lower()
        if not colon:
            raise ValueError(f"a line that is no field: {line[:40]!r}")
        if name not in USED | IDLE:
            raise ValueError(f"the field {name[:40]!r}, which is not read here")
        if name in fields:
            raise ValueError(f"the field {name!r} twice")
        fields[name] = value.strip()
    return fields


def _header(fields: dict[str, str], begins: int) -> Header:
    shape = tuple(int(side) for side in fields["sizes"].split())
    if not 1 <= len(shape) <= 4 or not all(1 <= side <= 100_000 for side in shape):
        raise ValueError(f"sizes {shape}")
    kind = TYPES.get(fields["type"].lower())
    if kind is None:
        raise ValueError(f"type {fields['type'][:40]!r}")
    encoding = fields["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise ValueError(f"encoding {encoding[:40]!r}, expected raw or gzip")
    big = fields.get("endian", "little").lower() == "big"
    affine = _affine(fields) if len(shape) == 3 else None
    return Header(shape, np.dtype(kind).newbyteorder(">" if big else "<"), encoding != "raw", affine, begins)


def _affine(fields: dict[str, str]) -> Array:
    flip = TO_RAS.get(fields["space"].lower())
    if flip is None:
        raise ValueError(f"space {fields['space'][:40]!r}")
    columns = [_vector(text) for text in fields["space directions"].replace(") (", ")|(").split("|")]
    if len(columns) != 3:
        raise ValueError(f"{len(columns)} space directions")
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns).T
    affine[:3, 3] = _vector(fields["space origin"])
    affine[:3] *= np.array(flip)[:, None]
    return affine


def _vector(text: str) -> tuple[float, float, float]:
    text = text.strip()
    if not (text.startswith("(") and text.endswith(")")):
        raise ValueError(f"{text[:40]!r} instead of a vector")
    numbers = [float(part) for part in text[1:-1].split(",")]
    if len(numbers) != 3 or not np.isfinite(numbers).all():
        raise ValueError(f"{text[:60]!r} instead of three numbers")
    return numbers[0], numbers[1], numbers[2]


def read_nrrd(path: Path) -> Volume:
    """A 3D NRRD file as float32.

    Raises:
        ImageError: as `read_header`; not 3D, or another number of voxels than the header says.
        GridError: directions that no grid can have.
    """
    header = read_header(path)
    if header.affine is None:
        raise ImageError(f"{path.name}: expected a 3D label map, got shape {header.shape}")
    size = int(np.prod(header.shape, dtype=np.int64)) * header.dtype.itemsize
    with path.open("rb") as file:
        file.seek(header.begins)
        try:
            content = _unpacked(file.read(), size) if header.gzipped else file.read(size + 1)
        except zlib.error as error:
            raise ImageError(f"{path.name}: expected voxels packed with gzip, got damaged ones ({error})") from None
    if len(content) != size:
        told = "more" if len(content) > size else f"{len(content)}"
        raise ImageError(f"{path.name}: expected {size} bytes of voxels, got {told}")
    voxels = np.frombuffer(content, header.dtype).reshape(header.shape, order="F").astype(np.float32)
    if not np.isfinite(voxels).all():
        raise ImageError(f"{path.name}: expected finite voxels")
    try:
        return Volume(voxels, header.affine)
    except GridError as error:
        raise GridError(f"{path.name}: {error}") from None


def _unpacked(packed: bytes, size: int) -> bytes:
    """At most one byte more than is wanted, whatever the packed bytes could become."""
    return zlib.decompressobj(GZIP).decompress(packed, size + 1)
