"""Values come back from files bit for bit, and damaged files give one clear line."""

import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from bayeslat.discrepancy import Basis, Discrepancy
from bayeslat.errors import BayeslatError, InputError, PosteriorFileError
from bayeslat.observations import Observations, validate_steps
from bayeslat.online import files
from bayeslat.online.files import (
    decode,
    encode,
    load_extra,
    load_value,
    register,
    save_value,
    write_whole,
)
from bayeslat.online.settings import OnlineSettings
from bayeslat.predictive import DeploymentDraws
from bayeslat.schema import Deployment


@register
@dataclass(frozen=True, eq=False)
class Held:
    values: Any
    other: Any = None
    counted: int = field(default=0, init=False)

    @cached_property
    def costly(self) -> Any:
        return np.zeros(10_000)


@register
class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True)
class Stranger:
    value: int


@dataclass
class Mutable:
    value: int


def there_and_back(value: Any) -> Any:
    return decode(encode(value), "here")


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same to the last bit, types and layouts too."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        if left.dtype == object:
            return left.shape == right.shape and all(
                same(a, b) for a, b in zip(left.ravel(), right.ravel(), strict=True)
            )
        return (
            (left.dtype, left.shape) == (right.dtype, right.shape)
            and (not left.size or left.strides == right.strides)
            and left.tobytes("A") == right.tobytes("A")
            and left.flags.writeable == right.flags.writeable
        )
    if isinstance(left, np.generic):
        return left.dtype == right.dtype and left.tobytes() == right.tobytes()
    if isinstance(left, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    if isinstance(left, tuple | list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict | MappingProxyType):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, pd.DataFrame):
        return left.equals(right) and list(left.dtypes) == list(right.dtypes)
    if hasattr(left, "__dataclass_fields__"):
        return all(
            same(getattr(left, name), getattr(right, name)) for name in left.__dataclass_fields__
        )
    return bool(left == right)


def odd_nan() -> float:
    """A NaN whose payload is not the usual one."""
    return struct.unpack("<d", struct.pack("<Q", 0x7FF800000000BEEF))[0]


PLAIN = {
    "none": None,
    "truth": True,
    "whole": -(2**140),
    "text": "né, \ud800 and \x00",
    "float": 0.1 + 0.2,
    "minus zero": -0.0,
    "infinite": -np.inf,
    "odd NaN": odd_nan(),
    "bytes": b"\x00\xff" * 3,
    "no bytes": b"",
    "tuple": (1, (2.0, "x"), ()),
    "list": [1, [None]],
    "mapping": {"a": 1, 2: {"b": (3,)}, Deployment("g", "m"): 0.5},
    "read-only mapping": MappingProxyType({"a": np.arange(3)}),
    "frozen set": frozenset({"b", "a", "c"}),
    "named tuple": Deployment("H100", "llama", 2, "vllm", "fp8"),
    "numpy float": np.float64(-0.0),
    "numpy short float": np.float32(1.1),
    "numpy whole": np.int16(-3),
    "numpy truth": np.True_,
    "numpy text": np.str_("x"),
    "numpy no text": np.str_(""),
    "numpy time": np.datetime64("2026-01-02T03:04:05.678"),
    "settings": OnlineSettings(window=None, seed=3),
    "nested": Pair(Held(np.ones(2), {"x": b"1"}), (Pair(1, 2),)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_value_comes_back(name: str) -> None:
    assert same(there_and_back(PLAIN[name]), PLAIN[name])


RNG = np.random.default_rng([7, 1])
ARRAYS = {
    "floats": RNG.normal(size=(3, 4)),
    "columns first": np.asfortranarray(RNG.normal(size=(3, 4))),
    "permuted": RNG.normal(size=(2, 3, 4)).transpose(1, 2, 0),
    "empty": np.empty((0, 3)),
    "one": np.array(3.5),
    "special": np.array([-0.0, np.inf, -np.inf, odd_nan()]),
    "short": np.arange(5, dtype=np.float32),
    "whole": np.arange(-2, 2, dtype=np.int8),
    "big-endian": np.arange(3, dtype=">i4"),
    "truths": np.array([True, False]),
    "texts": np.array(["a", "", "ccc"]),
    "bytes": np.array([b"a", b"bb"]),
    "times": np.array(["2026-01-01", "NaT"], dtype="datetime64[ns]"),
    "complex": np.array([1 + 2j]),
    "objects": np.array(["decode", "", "decode"], dtype=object),
    "no objects": np.array([], dtype=object),
    "mixed objects": np.array([["x", None], [1, 2.5]], dtype=object),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back(name: str) -> None:
    assert same(there_and_back(ARRAYS[name]), ARRAYS[name])


def test_a_read_only_array_stays_one() -> None:
    array = np.arange(3.0)
    array.setflags(write=False)
    found = there_and_back((array, np.arange(3.0)))
    assert [each.flags.writeable for each in found] == [False, True]


def test_a_strided_view_comes_back_with_its_values() -> None:
    view = np.arange(10.0)[::3]
    assert there_and_back(view).tolist() == view.tolist()


def test_an_array_that_is_shared_is_saved_once() -> None:
    array = np.zeros(10_000)
    left, right = there_and_back((array, {"again": array}))[0], None
    assert len(encode([array] * 9)) < 2 * array.nbytes
    found = there_and_back((array, {"again": array}))
    left, right = found[0], found[1]["again"]
    assert left is right


def test_an_object_that_is_shared_is_one_again() -> None:
    inner = Held(np.ones(2))
    found = there_and_back((Held(inner, (inner,)), inner, Held(np.ones(2))))
    assert found[0].values is found[0].other[0] is found[1]
    assert found[2] is not found[1]


def test_cached_properties_stay_behind() -> None:
    held = Held(np.ones(3))
    assert held.costly.size
    assert len(encode(held)) < held.costly.nbytes
    assert "costly" not in vars(there_and_back(held))


def test_fields_that_are_set_late_come_back() -> None:
    held = Held(1)
    object.__setattr__(held, "counted", 5)
    assert there_and_back(held).counted == 5


def test_the_classes_of_the_package_pass(tiny_steps: Observations) -> None:
    rng = np.random.default_rng(5)
    basis = Basis(rng.normal(size=(4, 2)))
    draws = DeploymentDraws(
        Deployment("g", "m"),
        {"P_max": rng.normal(size=9), "k_S": rng.normal(size=9)},
        rng.normal(size=9),
        np.full(9, 4.0),
        "student_t",
        rng.normal(size=(9, 3)),
        Discrepancy(basis, rng.normal(size=(9, 4)), rng.normal(size=9), None, (1.0, np.inf)),
    )
    found = there_and_back((draws, tiny_steps))
    assert same(found[0], draws)
    assert same(found[1], tiny_steps)
    assert found[1].fingerprint == tiny_steps.fingerprint


def test_the_rows_of_a_quarantine_pass(tiny_steps: Observations) -> None:
    frame = tiny_steps.to_frame().astype(object)
    frame.loc[3, "latency_ms"] = "soon"
    frame.loc[5, "latency_ms"] = None
    steps = validate_steps(frame)
    assert steps.quarantine.n_quarantined == 2
    pd.testing.assert_frame_equal(there_and_back(steps).quarantine.rows, steps.quarantine.rows)


FRAMES: dict[str, Callable[[], pd.DataFrame]] = {
    "steps": lambda: pd.DataFrame({"gpu": ["a", "b", None], "batch_size": [1, 2, 3]}),
    "objects": lambda: pd.DataFrame({"x": ["soon", 1.5, None, {"a": [1]}]}, dtype=object),
    "rows named": lambda: pd.DataFrame({"x": [1.0, np.nan]}, index=["p", "q"]),
    "rows picked": lambda: pd.DataFrame({"x": range(9)}).iloc[[5, 1, 7]],
    "types of pandas": lambda: pd.DataFrame(
        {
            "i": pd.array([1, None], dtype="Int64"),
            "c": pd.Categorical(["u", "v"]),
            "t": pd.to_datetime(["2026-01-01", "2026-01-02"], utc=True),
        }
    ),
    "names twice": lambda: pd.DataFrame([[1, 2.0]], columns=["x", "x"]),
    "no rows": lambda: pd.DataFrame({"x": np.empty(0), "y": np.empty(0, dtype=np.int64)}),
    "no columns": lambda: pd.DataFrame(index=range(3)),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_table_comes_back(name: str) -> None:
    frame = FRAMES[name]()
    pd.testing.assert_frame_equal(there_and_back(frame), frame, check_column_type=False)


def test_times_among_objects_pass() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    frame = pd.DataFrame({"timestamp": np.array([when, when], dtype=object)})
    assert list(there_and_back(frame)["timestamp"]) == [when, when]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Stranger(1), "Stranger"),
        (Mutable(1), "Mutable"),
        ({"deep": (object(),)}, "at deep"),
        (Held(1, lambda: None), "at other"),
        (np.array([object()]), "object"),
        (np.zeros(2, dtype=[("a", float)]), "array of"),
        (pd.DataFrame({"x": [1, object()]}), "column 'x'"),
    ],
)
def test_what_cannot_be_saved_is_named(value: Any, named: str) -> None:
    with pytest.raises(InputError, match=r"^got .*expected") as found:
        encode(value)
    assert named in str(found.value)
    assert "\n" not in str(found.value)


def test_only_plain_classes_are_registered() -> None:
    with pytest.raises(InputError, match="frozen dataclass"):
        register(Mutable)


def test_a_file_and_the_note_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "value"
    save_value({"a": np.arange(3)}, path, extra={"batch": 7})
    assert same(load_value(path), {"a": np.arange(3)})
    assert load_extra(path) == {"batch": 7}
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_value_gives_the_same_file() -> None:
    value = {"a": np.arange(3), "b": frozenset(map(str, range(50)))}
    assert encode(value) == encode(value)


def test_damage_anywhere_gives_one_line_or_the_value() -> None:
    """A byte changed anywhere: the checksums find it, or it is a byte that means nothing."""
    value = {"a": np.arange(30.0), "b": "text"}
    content = encode(value, extra=1)
    found = 0
    for place in range(len(content)):
        spoiled = bytearray(content)
        spoiled[place] ^= 0x55
        try:
            back = decode(bytes(spoiled), "spoiled")
        except PosteriorFileError as error:
            found += 1
            assert str(error).startswith("got spoiled")
            assert "\n" not in str(error)
        else:
            assert same(back, value)
    assert found > 0.5 * len(content)


def test_a_truncated_file_gives_one_line() -> None:
    content = encode({"a": np.arange(30.0)})
    for size in range(0, len(content), 7):
        with pytest.raises(PosteriorFileError, match=r"^got short, which is damaged"):
            decode(content[:size], "short")


def spoiled_header(value: Any, /, **changes: Any) -> bytes:
    """A file whose header says something else, with right checksums."""
    import io

    with np.load(io.BytesIO(encode(value))) as archive:
        parts = dict(archive)
    header = json.loads(parts["header"].tobytes()) | changes
    parts["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    held = io.BytesIO()
    np.savez(held, **parts)
    return held.getvalue()


def test_a_newer_file_says_so() -> None:
    with pytest.raises(PosteriorFileError, match="format 99, expected 1; use the release"):
        decode(spoiled_header(1, version=99), "new")


@pytest.mark.parametrize(
    "classes",
    [
        [["os:system", []]],
        [["bayeslat.schema:SCHEMA_VERSION", []]],
        [["bayeslat.__main__:main", []]],
        [["bayeslat.online.files:os.system", []]],
        [["bayeslat.nowhere:Thing", []]],
        [["bayeslat.observations.table:Observations", ["latency_ms"]]],
    ],
)
def test_a_header_names_no_other_code(classes: Any) -> None:
    with pytest.raises(PosteriorFileError, match=r"^got odd, which is damaged"):
        decode(spoiled_header(1, classes=classes, value=["u", 0]), "odd")


def test_a_settings_file_with_impossible_settings_is_refused() -> None:
    node = [0, 1, 100, 1.0, None, 1.0, 0.05, 1e-5, "e-process", 5, 500, 0]  # one draw alone
    content = spoiled_header(OnlineSettings(), objects=[node])
    with pytest.raises(PosteriorFileError, match="draws=1"):
        decode(content, "odd")


def test_arrays_lie_within_the_file() -> None:
    entry = ["<f8", [100], None, True, 0, 800]
    with pytest.raises(PosteriorFileError, match="beyond its end"):
        decode(spoiled_header(np.zeros(3), arrays=[entry]), "odd")


def test_foreign_files_give_one_line(tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    for content in (b"", b"hello", pickle.dumps({"a": 1}), b"PK\x03\x04rest", b"CDF\x01"):
        path.write_bytes(content)
        for read in (load_value, load_extra):
            with pytest.raises(PosteriorFileError, match=f"^got {path}"):
                read(path)
    np.savez(path.with_suffix(".npz"), a=1)
    with pytest.raises(PosteriorFileError, match=r"^got"):
        load_value(path.with_suffix(".npz"))
    np.save(path.with_suffix(".npy"), np.arange(3))
    with pytest.raises(PosteriorFileError, match=r"^got"):
        load_value(path.with_suffix(".npy"))


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    np.savez(path, header=np.array([{"a": 1}], dtype=object), extra=1, data=2)
    with pytest.raises(PosteriorFileError, match=r"^got"):
        load_value(path)


def test_a_missing_file_and_a_missing_folder_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(PosteriorFileError, match="no such file"):
        load_value(tmp_path / "none")
    with pytest.raises(PosteriorFileError, match="cannot be written"):
        save_value(1, tmp_path / "nowhere" / "file")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value"
    save_value("old", path)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(PosteriorFileError, match="No space left") as found:
        save_value("new", path)
    assert isinstance(found.value, BayeslatError)
    assert load_value(path) == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_are_written_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"12")
    assert (tmp_path / "a").read_bytes() == b"12"
