"""Opening files: plain or gzip, with one clear line when the file is not what it should be."""

import gzip
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from bayeslat.errors import InputError

__all__ = [
    "check_readable",
    "inner_suffix",
    "is_gzip",
    "numbered_lines",
    "open_bytes",
    "read_head",
    "replacing",
]

HEAD_BYTES = 1 << 18
GZIP_MAGIC = b"\x1f\x8b"


def check_readable(path: Path) -> None:
    """Refuse what cannot be a log: nothing there, a folder, no bytes."""
    if path.is_dir():
        raise InputError(f"got the folder {path}, expected a file; name one file in it")
    if not path.exists():
        raise InputError(f"got {path}, which does not exist, expected a step log; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"got the empty file {path}, expected a step log; check what wrote it")


def is_gzip(path: Path) -> bool:
    """Whether the content is gzip, whatever the name says."""
    with path.open("rb") as stream:
        return stream.read(2) == GZIP_MAGIC


def inner_suffix(path: Path) -> str:
    """Suffix in lower case, of ``steps.csv.gz`` the ``.csv``."""
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return inner.suffix.lower()


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Content of a plain or gzip file.

    Raises
    ------
    InputError
        The file cannot be opened, or its gzip stream is damaged or ends too early.
    """
    try:
        with gzip.open(path, "rb") if is_gzip(path) else path.open("rb") as stream:
            yield cast(BinaryIO, stream)
    except EOFError as error:
        raise InputError(
            f"got the gzip file {path} that ends too early, expected a complete one; copy it again"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"got the damaged gzip file {path} ({error}), expected a sound one; copy it again"
        ) from error
    except PermissionError as error:
        raise InputError(
            f"got {path}, which may not be read, expected a readable file; check its permissions"
        ) from error


def read_head(path: Path) -> bytes:
    """First bytes, unzipped."""
    with open_bytes(path) as stream:
        return stream.read(HEAD_BYTES)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, without line ends."""
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, start=1):
            yield number, line.rstrip(b"\r\n")


def replacing(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it.

    Parameters
    ----------
    path
        The file to make or replace.
    write
        Writes the whole content to the path it is given.
    """
    if not path.parent.is_dir():
        raise InputError(
            f"got {path}, whose folder does not exist, expected an existing folder; make it first"
        )
    # The same folder, because a rename is atomic only within one file system.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # mkstemp makes files private; the result should have what a plain open would give.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
