"""Values in files: frozen dataclasses of arrays, whole or not at all, and no code in them.

A file is an npz archive of three parts: a JSON header that says how the value is put together, the
bytes of all its arrays one after the other, and a small note beside it that can be read alone.
What is read is what was saved, bit for bit: types, memory layout, signed zeros and the payload of a
NaN. Only fields are saved, so that cached properties stay behind. The header names classes; reading
one makes an object only of frozen dataclasses and named tuples of this package, and of those that
`register` was told of.
"""

import dataclasses
import importlib
import io
import json
import os
import struct
import types
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from bayeslat.errors import InputError, PosteriorFileError
from bayeslat.storage import write_whole

__all__ = [
    "decode",
    "encode",
    "load_extra",
    "load_value",
    "register",
    "save_value",
]

VERSION: Final = 1
"""Of the format; raised when a reader of old files would misread new ones."""

FORMAT: Final = "bayeslat value"

ARRAY_KINDS: Final = "biufcSUmM"
"""Kinds of numpy types that are bytes and nothing else."""

_REGISTERED: Final[dict[str, type]] = {}

_FAULTS: Final = (
    OSError, ValueError, KeyError, TypeError, EOFError, IndexError, AttributeError, ImportError,
    OverflowError, NotImplementedError, RecursionError, MemoryError, RuntimeError, struct.error,
    zipfile.BadZipFile, zlib.error, pa.ArrowException,
)  # fmt: skip
"""What reading something else than a value may raise."""


class _NewerFormatError(Exception):
    """The file is of a format that is not known here."""


def register[C: type](cls: C) -> C:
    """Let a class from outside this package be read back; usable as a decorator.

    Parameters
    ----------
    cls : type
        A frozen dataclass or a named tuple.

    Raises
    ------
    InputError
        The class is neither.
    """
    if not _is_plain(cls):
        raise InputError(
            f"got {cls.__module__}.{cls.__qualname__}, expected a frozen dataclass or a named"
            " tuple; other objects are not saved"
        )
    _REGISTERED[_name_of(cls)] = cls
    return cls


def encode(value: Any, extra: Any = None) -> bytes:
    """A value as the content of a file.

    Parameters
    ----------
    value : object
        Frozen dataclasses, named tuples, tuples, lists, mappings, frozen sets, arrays, numpy
        scalars, data frames, numbers, strings, bytes and None, nested in any way.
    extra : object
        A note of JSON-able values that `load_extra` reads without the rest.

    Raises
    ------
    InputError
        Something in the value is of another kind; the message says where it is.
    """
    writer = _Writer()
    node = writer.node(value)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "classes": writer.classes,
        "arrays": writer.arrays,
        "objects": writer.objects,
        "value": node,
    }
    held = io.BytesIO()
    np.savez(
        held,
        header=_as_bytes(json.dumps(header, allow_nan=False, separators=(",", ":"))),
        extra=_as_bytes(json.dumps(extra)),
        data=np.concatenate([np.empty(0, np.uint8), *writer.chunks]),
    )
    return held.getvalue()


def decode(content: bytes, source: str) -> Any:
    """The value that `encode` was given.

    Parameters
    ----------
    content : bytes
        What `encode` gave.
    source : str
        What to call it in messages.

    Raises
    ------
    PosteriorFileError
        The content is damaged, of a newer format, or something else altogether.
    """
    with _reading(source), np.load(io.BytesIO(content), allow_pickle=False) as archive:
        header = _header(archive)
        return _Reader(header, archive["data"]).value(header["value"])


def save_value(value: Any, path: str | os.PathLike[str], extra: Any = None) -> None:
    """Write a value; an existing file stays as it is until the new one is complete on the disk.

    Parameters
    ----------
    value, extra
        As in `encode`.
    path : path
        The file, in a folder that exists.

    Raises
    ------
    InputError
        Something in the value cannot be saved.
    PosteriorFileError
        The file cannot be written: no such folder, no right to, or no room left.
    """
    write_whole(Path(path), encode(value, extra))


def load_value(path: str | os.PathLike[str]) -> Any:
    """Read what `save_value` wrote.

    Raises
    ------
    PosteriorFileError
        The file is missing, damaged, truncated, of a newer format or no such file at all.
    """
    file = _existing(path)
    with _reading(str(file)):
        content = file.read_bytes()
    return decode(content, str(file))


def load_extra(path: str | os.PathLike[str]) -> Any:
    """Read the note beside a saved value, and nothing else of the file.

    Raises
    ------
    PosteriorFileError
        As `load_value`.
    """
    file = _existing(path)
    # The file is opened here, because numpy leaves open what it finds to be no archive.
    with _reading(str(file)), file.open("rb") as stream:
        with np.load(stream, allow_pickle=False) as archive:
            _header(archive)
            return json.loads(archive["extra"].tobytes())


def _existing(path: str | os.PathLike[str]) -> Path:
    file = Path(path)
    if not file.is_file():
        raise PosteriorFileError(f"got {file}, expected a saved value; no such file")
    return file


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """Turn what reading something else may raise into one clear line."""
    try:
        yield
    except _NewerFormatError as fault:
        raise PosteriorFileError(
            f"got {source} of format {fault}, expected {VERSION}; use the release that wrote it"
        ) from fault
    except _FAULTS as fault:
        raise PosteriorFileError(
            f"got {source}, which is damaged or was not written by this version"
            f" ({type(fault).__name__}: {fault}), expected a saved value; save it again"
        ) from fault


def _header(archive: Any) -> dict[str, Any]:
    header = json.loads(archive["header"].tobytes())
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError("no value in it")
    if header["version"] != VERSION:
        raise _NewerFormatError(str(header["version"]))
    return header


def _as_bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _is_plain(cls: type) -> bool:
    """Whether a class is its fields and nothing else."""
    if dataclasses.is_dataclass(cls):
        parameters = cls.__dataclass_params__  # type: ignore[attr-defined]
        return bool(parameters.frozen)
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def _name_of(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _class_of(name: str) -> type:
    """The class of a name; only a plain one of this package, or one that was registered."""
    if name in _REGISTERED:
        return _REGISTERED[name]
    module, _, path = name.partition(":")
    if not module.startswith("bayeslat.") or module.endswith("__main__"):
        raise ValueError(f"{name} is no class of bayeslat")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not isinstance(found, type) or not _is_plain(found) or _name_of(found) != name:
        raise ValueError(f"{name} is no class that is saved")
    return found


def _fields_of(cls: type) -> tuple[str, ...]:
    if dataclasses.is_dataclass(cls):
        return tuple(item.name for item in dataclasses.fields(cls))
    return tuple(cls._fields)  # type: ignore[attr-defined]


def _layout(array: NDArray[Any]) -> tuple[int, ...] | None:
    """Axes from the slowest to the fastest in memory; None where they lie as in C.

    A sum over a transposed array may round otherwise than one over its copy, so layouts are kept.
    """
    if array.flags.c_contiguous:
        return None
    order = tuple(int(axis) for axis in np.argsort([-stride for stride in array.strides]))
    return order if array.transpose(order).flags.c_contiguous else None


class _Writer:
    """Takes a value apart into a node of JSON and the bytes of its arrays.

    A node is a number, a string, a truth value or None for itself, and a list for everything else,
    with a letter in front that says what it is.
    """

    def __init__(self) -> None:
        self.chunks: list[NDArray[np.uint8]] = []
        self.arrays: list[list[Any]] = []
        self.classes: list[list[Any]] = []
        self.objects: list[list[Any]] = []
        self._size = 0
        self._class_index: dict[type, int] = {}
        # The array or object itself is held, too: an id is only unique as long as that lives.
        self._array_index: dict[int, tuple[Any, int]] = {}
        self._object_index: dict[int, tuple[Any, int]] = {}
        self._path: list[str] = []

    def node(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is int or kind is str:
            return value
        if kind is float:
            finite = value - value == 0.0
            return value if finite else ["f", struct.pack("<d", value).hex()]
        if kind is tuple or kind is list:
            return ["t" if kind is tuple else "l", *map(self.node, value)]
        if kind is dict or kind is types.MappingProxyType:
            items = [[self.node(key), self._at(str(key), each)] for key, each in value.items()]
            return ["m" if kind is dict else "p", *items]
        if kind is np.ndarray:
            return self._objects(value) if value.dtype == object else ["a", self._array(value)]
        if isinstance(value, np.generic) and value.dtype.kind in ARRAY_KINDS:
            held = np.array([value])  # at least one character wide, where a scalar may have none
            return ["n", held.dtype.str, held.tobytes().hex()]
        if kind is bytes:
            return ["b", *self._placed(np.frombuffer(value, np.uint8))]
        if kind is frozenset:
            return ["s", *map(self.node, sorted(value, key=repr))]
        if kind is pd.DataFrame:
            return self._frame(value)
        if value is pd.NA or value is pd.NaT:
            return ["N", "NA" if value is pd.NA else "NaT"]
        if dataclasses.is_dataclass(kind) and _is_plain(kind):
            return ["c", self._object(value)]
        if _is_plain(kind):
            return ["u", *self._fields(value)]
        raise InputError(
            f"got a {kind.__module__}.{kind.__qualname__} at {'.'.join(self._path) or 'the top'},"
            " expected frozen dataclasses, tuples, mappings, arrays, numbers, strings or bytes;"
            " only these are saved"
        )

    def _at(self, name: str, value: Any) -> Any:
        self._path.append(name)
        try:
            return self.node(value)
        finally:
            self._path.pop()

    def _object(self, value: Any) -> int:
        """Place of a dataclass; one that occurs twice is one object again when it is read."""
        known = self._object_index.get(id(value))
        if known is not None:
            return known[1]
        content = self._fields(value)
        index = len(self.objects)
        self.objects.append(content)
        self._object_index[id(value)] = value, index
        return index

    def _fields(self, value: Any) -> list[Any]:
        names = _fields_of(type(value))
        place = self._class(type(value), names)
        return [place, *(self._at(name, getattr(value, name)) for name in names)]

    def _class(self, kind: type, names: tuple[str, ...]) -> int:
        if kind not in self._class_index:
            name = _name_of(kind)
            if name not in _REGISTERED and not name.startswith("bayeslat."):
                raise InputError(
                    f"got a {name.replace(':', '.')} at {'.'.join(self._path) or 'the top'},"
                    " expected a class of bayeslat; register others with"
                    " bayeslat.online.files.register"
                )
            self._class_index[kind] = len(self.classes)
            self.classes.append([name, list(names)])
        return self._class_index[kind]

    def _array(self, array: NDArray[Any]) -> int:
        known = self._array_index.get(id(array))
        if known is not None:
            return known[1]
        if array.dtype.kind not in ARRAY_KINDS:
            raise InputError(
                f"got an array of {array.dtype} at {'.'.join(self._path) or 'the top'}, expected"
                " one of numbers, strings or times; only these are saved"
            )
        order = _layout(array)
        laid = np.ascontiguousarray(array if order is None else array.transpose(order))
        place = self._placed(laid.reshape(-1).view(np.uint8) if laid.size else laid)
        index = len(self.arrays)
        shape, writeable = list(array.shape), bool(array.flags.writeable)
        self.arrays.append([array.dtype.str, shape, order, writeable, *place])
        self._array_index[id(array)] = array, index
        return index

    def _placed(self, content: NDArray[Any]) -> tuple[int, int]:
        """Where some bytes will lie, and how many they are."""
        start = self._size
        if content.size:
            self.chunks.append(content)
            self._size += content.nbytes
        return start, content.nbytes

    def _objects(self, values: NDArray[Any]) -> Any:
        """An array of strings as codes and labels; of anything else, one by one."""
        flat = values.ravel()
        if pd.api.types.infer_dtype(flat, skipna=False) == "string":
            codes, labels = pd.factorize(flat)
            found = ["o", list(values.shape), self._array(codes), [str(each) for each in labels]]
        else:
            found = ["O", list(values.shape), [self.node(each) for each in flat]]
        return [*found, bool(values.flags.writeable)]

    def _frame(self, frame: pd.DataFrame) -> Any:
        index = frame.index
        if type(index) is pd.RangeIndex and index.name is None:
            rows: Any = [index.start, index.stop, index.step]
        else:
            rows = self._arrow(pd.DataFrame(index=index), "the index")
        columns = [self._column(frame.iloc[:, i], name) for i, name in enumerate(frame.columns)]
        return ["d", rows, [self.node(name) for name in frame.columns], columns]

    def _column(self, column: pd.Series, name: Any) -> Any:
        if isinstance(column.dtype, np.dtype):
            with suppress(InputError):  # times and the like in a column of objects
                return self._at(f"column {name!r}", column.to_numpy())
        return ["x", *self._arrow(column.to_frame("0").reset_index(drop=True), f"column {name!r}")]

    def _arrow(self, frame: pd.DataFrame, what: str) -> tuple[int, int]:
        """Place of a table as Arrow writes it: for the types of pandas that numpy lacks."""
        held = io.BytesIO()
        try:
            table = pa.Table.from_pandas(frame)
            with pa.ipc.new_stream(held, table.schema) as stream:
                stream.write_table(table)
        except (pa.ArrowException, TypeError, ValueError) as fault:
            raise InputError(
                f"got {what} of a table with values of several kinds ({str(fault).splitlines()[0]}"
                "), expected numbers or text; convert it"
            ) from fault
        return self._placed(np.frombuffer(held.getvalue(), np.uint8))


class _Reader:
    """Puts a value together again from what `_Writer` made of it."""

    def __init__(self, header: dict[str, Any], data: NDArray[np.uint8]) -> None:
        self._data = data
        self._arrays = [self._read(*entry) for entry in header["arrays"]]
        self._classes = [self._checked(name, names) for name, names in header["classes"]]
        self._makers: dict[str, Callable[..., Any]] = {
            "f": lambda text: struct.unpack("<d", bytes.fromhex(text))[0],
            "t": lambda *items: tuple(map(self.value, items)),
            "l": lambda *items: list(map(self.value, items)),
            "m": self._mapping,
            "p": lambda *items: types.MappingProxyType(self._mapping(*items)),
            "a": lambda index: self._arrays[index],
            "o": self._texts,
            "O": self._anything,
            "n": lambda dtype, text: np.frombuffer(bytes.fromhex(text), _dtype(dtype))[0],
            "b": lambda start, size: self._bytes(start, size).tobytes(),
            "s": lambda *items: frozenset(map(self.value, items)),
            "d": self._frame,
            "x": self._arrow_column,
            "N": lambda name: {"NA": pd.NA, "NaT": pd.NaT}[name],
            "c": lambda index: self._objects[index],
            "u": self._object,
        }
        self._objects: list[Any] = []
        for entry in header["objects"]:  # those within another stand before it
            self._objects.append(self._object(*entry))

    def value(self, node: Any) -> Any:
        if type(node) is list:
            return self._makers[node[0]](*node[1:])
        if type(node) is dict:
            raise ValueError("a mapping where a value should be")
        return node

    def _bytes(self, start: int, size: int) -> NDArray[np.uint8]:
        if not 0 <= start <= start + size <= self._data.size:
            raise ValueError("bytes beyond its end")
        return self._data[start : start + size]

    def _read(
        self, dtype: str, shape: list[int], order: Any, writeable: bool, start: int, size: int
    ) -> NDArray[Any]:
        laid = shape if order is None else [shape[axis] for axis in order]
        # A copy, so that what is kept of a value does not keep all the rest in memory.
        array = self._bytes(start, size).copy().view(_dtype(dtype)).reshape(laid)
        if order is not None:
            array = array.transpose(np.argsort(order))
        array.setflags(write=writeable)
        return array

    def _checked(self, name: str, names: list[str]) -> type:
        cls = _class_of(name)
        if list(_fields_of(cls)) != names:
            raise ValueError(f"{name} has other fields")
        return cls

    def _mapping(self, *items: Any) -> dict[Any, Any]:
        return {self.value(key): self.value(each) for key, each in items}

    def _object(self, index: int, *nodes: Any) -> Any:
        cls = self._classes[index]
        values = dict(zip(_fields_of(cls), map(self.value, nodes), strict=True))
        if not dataclasses.is_dataclass(cls):
            return cls(*values.values())
        late = [item.name for item in dataclasses.fields(cls) if not item.init]
        found = cls(**{name: each for name, each in values.items() if name not in late})
        for name in late:
            object.__setattr__(found, name, values[name])
        return found

    def _texts(
        self, shape: list[int], index: int, labels: list[str], writeable: bool
    ) -> NDArray[Any]:
        found = np.array(labels, dtype=object)[self._arrays[index]].reshape(shape)
        found.setflags(write=writeable)
        return found

    def _anything(self, shape: list[int], nodes: list[Any], writeable: bool) -> NDArray[Any]:
        found = np.empty(len(nodes), dtype=object)
        for place, node in enumerate(nodes):
            found[place] = self.value(node)
        found = found.reshape(shape)
        found.setflags(write=writeable)
        return found

    def _frame(self, rows: list[int], names: list[Any], columns: list[Any]) -> pd.DataFrame:
        arrow = len(rows) == 2
        index = self._arrow(*rows).index if arrow else pd.RangeIndex(rows[0], rows[1], rows[2])
        values = [self.value(node) for node in columns]
        # The type is given, or else pandas makes texts of its own from objects.
        series = [pd.Series(each, index=index, dtype=each.dtype) for each in values]
        frame = pd.DataFrame(dict(enumerate(series)), index=index)
        frame.columns = pd.Index([self.value(name) for name in names])
        return frame

    def _arrow(self, start: int, size: int) -> pd.DataFrame:
        with pa.ipc.open_stream(pa.BufferReader(self._bytes(start, size))) as stream:
            return stream.read_all().to_pandas()

    def _arrow_column(self, start: int, size: int) -> Any:
        return self._arrow(start, size)["0"].array


def _dtype(name: str) -> np.dtype[Any]:
    found = np.dtype(name)
    if found.kind not in ARRAY_KINDS:
        raise ValueError(f"arrays of {name} are not saved")
    return found
