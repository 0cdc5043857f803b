"""Gates in files: a header and coefficients, a few kilobytes without any code in them."""

import io
import json
import lzma
import os
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.errors import InputError
from bayeslat.gate.series import Piece, Profiles

if TYPE_CHECKING:
    from bayeslat.gate.compiled import Gate

__all__ = ["from_bytes", "read", "to_bytes", "write"]

type Array = NDArray[np.float64]

VERSION: Final = 1
"""Of the format; raised when a reader of old files would misread new ones."""

_FIELDS: Final = (
    "deployment", "sla_ms", "risk", "max_batch_size", "max_total_tokens", "fingerprint", "quantum",
)  # fmt: skip


_FAULTS: Final = (
    OSError, ValueError, KeyError, TypeError, EOFError, AttributeError, lzma.LZMAError,
    zipfile.BadZipFile,
)  # fmt: skip
"""What reading something else than a gate may raise."""


def to_bytes(gate: "Gate") -> bytes:
    """A gate as a compressed archive of numpy arrays."""
    header = {name: getattr(gate, name) for name in _FIELDS}
    header |= {"version": VERSION, "accuracy": asdict(gate.accuracy)}
    header["log_scale"] = gate.profiles.log_scale
    header["pieces"] = [
        [piece.regime, piece.low, piece.high, *piece.series.shape] for piece in gate.pieces
    ]
    multiples = np.concatenate([np.ravel(piece.series) for piece in gate.pieces]) / gate.quantum
    held = io.BytesIO()
    np.savez(
        held,
        header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8),
        levels=np.stack([gate.profiles.probability, gate.profiles.density, gate.profiles.variate]),
        curves=gate.profiles.curves.astype(np.float32),
        series=_packed(np.round(multiples).astype(np.int64)),
    )
    return lzma.compress(held.getvalue())


def _packed(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Whole numbers as rows of bytes of one weight: most of the high ones are zero, and compress.

    The sign goes into the last bit, or else small negative numbers would have no zero byte.
    """
    folded = ((values << 1) ^ (values >> 63)).astype("<u8")
    return np.ascontiguousarray(folded.view(np.uint8).reshape(-1, 8).T)


def _unpacked(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    folded = np.ascontiguousarray(packed.T).view("<u8").ravel().astype(np.int64)
    return (folded >> 1) ^ -(folded & 1)


def from_bytes(content: bytes, source: str) -> dict[str, Any]:
    """The fields of a gate; that of its accuracy as a mapping.

    Raises
    ------
    InputError
        The content is no gate, or of another version.
    """
    try:
        version, fields = _parsed(content)
    except _FAULTS as fault:
        raise InputError(
            f"got {source}, which is no compiled gate ({fault}), expected what Gate.save writes;"
            " compile the gate again"
        ) from fault
    if version != VERSION:
        raise InputError(
            f"got {source}, a gate of format {version}, expected format {VERSION}; compile it again"
        )
    return fields


def _parsed(content: bytes) -> tuple[Any, dict[str, Any]]:
    """Version and fields; none of these for another version."""
    with np.load(io.BytesIO(lzma.decompress(content)), allow_pickle=False) as archive:
        header = json.loads(archive["header"].tobytes())
        levels, curves, packed = archive["levels"], archive["curves"], archive["series"]
    if header["version"] != VERSION:
        return header["version"], {}
    values = _unpacked(packed) * header["quantum"]
    pieces, start = [], 0
    for regime, low, high, *shape in header["pieces"]:
        size = int(np.prod(shape))
        series = values[start : start + size].reshape(shape)
        pieces.append(Piece(regime, low, high, series))
        start += size
    probability, density, variate = levels
    fields: dict[str, Any] = {name: header[name] for name in (*_FIELDS, "accuracy")}
    fields["profiles"] = Profiles(
        probability, density, variate, curves.astype(float), header["log_scale"]
    )
    return VERSION, fields | {"pieces": tuple(pieces)}


def read(path: Path) -> bytes:
    """Content of a file.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as fault:
        raise InputError(
            f"got {path}, which cannot be read ({fault.strerror}), expected a saved gate; check the"
            " path"
        ) from fault


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: under a temporary name first.

    Raises
    ------
    InputError
        The folder does not exist, or the path is a folder.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(
            f"got {path} to write a gate to, expected a file in a folder that exists; choose one"
        )
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
