"""Following a growing log: every row once, whatever happens to the file."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bayeslat.errors import InputError
from bayeslat.observations import following
from bayeslat.observations.base import ReadOptions
from bayeslat.observations.following.growing import MAX_LINE_BYTES
from bayeslat.observations.read import READERS

HEADER = b"gpu,model,batch_size,total_tokens,latency_ms"
WHERE = ReadOptions(gpu="some-gpu", model="some-model")


def csv_row(number: int) -> bytes:
    """A row that its latency tells from every other."""
    return b"some-gpu,some-model,4,4,%d.5" % (number + 1)


def jsonl_row(number: int) -> bytes:
    record = {"gpu": "some-gpu", "model": "some-model", "batch_size": 4, "total_tokens": 4}
    return json.dumps(record | {"latency_ms": number + 1.5}).encode()


def vllm_row(number: int) -> bytes:
    return (
        b"INFO [core.py:1] Iteration(%d): 0 context requests, 0 context tokens, "
        b"4 generation requests, 4 generation tokens, iteration elapsed time: %d.5 ms"
    ) % (number, number + 1)


def fpm_row(number: int, scope: str = "", prefill: int = 0, wall: float | None = None) -> bytes:
    scheduled = {
        "num_prefill_requests": prefill,
        "num_decode_requests": 4,
        "sum_prefill_tokens": prefill,
        "sum_prefill_kv_tokens": 0,
        "sum_decode_kv_tokens": 0,
    }
    seconds = (number + 1.5) / 1e3 if wall is None else wall
    record = {"wall_time": seconds, "scheduled_requests": scheduled, "timing_scope": scope}
    return json.dumps(record).encode()


ROWS = {"csv": csv_row, "jsonl": jsonl_row, "vllm-log": vllm_row, "fpm": fpm_row}


def lines(*content: bytes) -> bytes:
    return b"".join(line + b"\n" for line in content)


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(content)


def numbers(chunk: following.Chunk) -> list[int]:
    """Which rows a chunk holds."""
    return np.round(chunk.steps.latency_ms - 1.5).astype(int).tolist()


class Reader:
    """Reads on and on; its position goes through JSON each time, as if it were killed."""

    def __init__(self, path, *, held=None, from_end=False, options=WHERE, **settings):
        self.position = following.start(
            path, from_end=from_end, options=options, format=settings.get("format", "auto")
        )
        self.settings = {"held": held, "options": options, "check_floor": False, **settings}
        self.counts: dict[str, int] = {}
        self.notes: list[str] = []
        self.examples: list[tuple[str, int]] = []

    def all(self) -> list[int]:
        """Rows behind the position, in the order of reading."""
        found: list[int] = []
        for _ in range(10_000):
            saved = json.loads(json.dumps(self.position.to_dict()))
            position = following.Position.from_dict(saved)
            self.position, chunk = following.read(position, **self.settings)
            found += numbers(chunk)
            quarantine = chunk.steps.quarantine
            for counts in (quarantine.counts, quarantine.dropped):
                for reason, number in counts.items():
                    self.counts[reason] = self.counts.get(reason, 0) + number
            rows = quarantine.rows
            self.examples += list(zip(rows["reason"], map(int, rows["row"]), strict=True))
            self.notes += chunk.notes
            self.found = chunk.found
            if not chunk.more:
                return found
        raise AssertionError("there is always more")


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "steps.csv"


@pytest.fixture(params=[False, True], ids=["by inode", "held open"])
def held(request):
    """What keeps the file open between reads, or nothing."""
    with following.Held() as box:
        yield box if request.param else None


@pytest.mark.parametrize("format", ROWS)
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["LF", "CR LF"])
def test_rows_come_as_the_reader_of_whole_files_gives_them(tmp_path, format, ending):
    """Byte by byte at places, in odd pieces elsewhere."""
    head = [HEADER] if format == "csv" else []
    content = ending.join([*head, *(ROWS[format](i) for i in range(40)), b""])
    path = tmp_path / "steps.log"
    reader = Reader(path)
    found: list[int] = []
    rng = np.random.default_rng(3)
    assert reader.all() == []
    while content:
        size = int(rng.choice([1, 7, 100, 1000]))
        append(path, content[:size])
        content = content[size:]
        found += reader.all()
    assert found == list(range(40))
    whole = READERS[format].read(path, WHERE)
    np.testing.assert_array_equal(whole.frame["latency_ms"].to_numpy() - 1.5, found)
    assert not reader.counts
    assert reader.position.offset == path.stat().st_size
    assert reader.position.format == format


def test_a_line_is_kept_until_it_is_complete(path):
    reader = Reader(path)
    append(path, lines(HEADER, csv_row(0)) + b"some-gpu,some-model,4,4,1")
    assert reader.all() == [0]
    assert reader.all() == []
    append(path, b"2.5")
    assert reader.all() == []
    append(path, b"\n")
    assert reader.all() == [11]


def test_a_backlog_is_read_piece_by_piece(path):
    path.write_bytes(lines(HEADER, *map(csv_row, range(25))))
    position = following.start(path)
    position, first = following.read(position, max_lines=10)
    assert (first.n_lines, first.more) == (10, True)
    assert numbers(first) == list(range(9))
    position, second = following.read(position, max_lines=10)
    assert numbers(second) == list(range(9, 19))
    position, third = following.read(position, max_lines=10)
    assert (numbers(third), third.more) == (list(range(19, 25)), False)


def test_a_position_is_a_value(path):
    path.write_bytes(lines(HEADER, *map(csv_row, range(5))))
    position = following.start(path)
    once, twice = (following.read(position) for _ in range(2))
    assert once[0] == twice[0]
    assert once[1].steps.fingerprint == twice[1].steps.fingerprint
    with pytest.raises(AttributeError):
        position.offset = 3


def test_a_file_may_come_later_vanish_and_come_back(path, held):
    reader = Reader(path, held=held)
    assert reader.all() == []
    assert not reader.found
    append(path, lines(HEADER, csv_row(0)))
    assert reader.all() == [0]
    away = path.with_name("elsewhere")
    path.rename(away)
    assert reader.all() == []
    away.rename(path)
    append(path, lines(csv_row(1)))
    assert reader.all() == [1]
    assert reader.notes == []


def test_rotation_finishes_the_old_file_first(path, held):
    reader = Reader(path, held=held)
    append(path, lines(HEADER, csv_row(0), csv_row(1)))
    assert reader.all() == [0, 1]
    append(path, lines(csv_row(2)))
    path.rename(path.with_name("steps.csv.1"))
    append(path.with_name("steps.csv.1"), lines(csv_row(3)))
    append(path, lines(HEADER, csv_row(4)))
    assert reader.all() == [2, 3, 4]
    assert reader.notes == ["the file was rotated; following the new one"]
    assert reader.counts == {}


def test_a_writer_may_go_on_in_the_renamed_file_for_a_while(path, held):
    """Until it is told to open its log anew."""
    reader = Reader(path, held=held)
    append(path, lines(HEADER, csv_row(0)))
    assert reader.all() == [0]
    old = path.with_name("steps.csv-20261122")
    path.rename(old)
    append(old, lines(csv_row(1)))
    assert reader.all() == [1]
    path.touch()
    append(old, lines(csv_row(2)) + csv_row(3)[:9])
    assert reader.all() == [2]
    append(old, csv_row(3)[9:] + b"\n")
    append(path, lines(HEADER, csv_row(4)))
    assert reader.all() == [3, 4]


def test_a_file_rotated_twice_between_two_looks_loses_what_is_between_only(path):
    """The file in the middle was never seen: nobody said that it belongs to the log."""
    reader = Reader(path)
    append(path, lines(HEADER, csv_row(0)))
    assert reader.all() == [0]
    append(path, lines(csv_row(1)))
    path.rename(path.with_name("steps.csv.2"))
    path.with_name("steps.csv.1").write_bytes(lines(HEADER, csv_row(2)))
    append(path, lines(HEADER, csv_row(3)))
    assert reader.all() == [1, 3]


def test_what_was_deleted_or_compressed_is_finished_where_it_was_held_open(path):
    with following.Held() as box:
        reader = Reader(path, held=box)
        append(path, lines(HEADER, csv_row(0)))
        assert reader.all() == [0]
        append(path, lines(csv_row(1)))
        packed = path.with_name("steps.csv.1.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        assert reader.all() == [1]
        append(path, lines(HEADER, csv_row(2)))
        assert reader.all() == [2]


def test_half_a_line_at_the_end_of_a_rotated_file_is_no_row(path, held):
    """A latency of 12.5 cut to 1 would be a number."""
    reader = Reader(path, held=held)
    append(path, lines(HEADER, csv_row(0)) + csv_row(11)[:-3])
    assert reader.all() == [0]
    path.rename(path.with_name("steps.csv.1"))
    append(path, lines(HEADER, csv_row(1)))
    assert reader.all() == [1]
    assert reader.counts == {"half a line at the end of a rotated file": 1}


def test_truncation_begins_anew(path, held):
    reader = Reader(path, held=held)
    append(path, lines(HEADER, csv_row(0), csv_row(1)))
    assert reader.all() == [0, 1]
    path.write_bytes(lines(HEADER, csv_row(2)))
    assert reader.all() == [2]
    assert reader.notes == ["the file was replaced or truncated"]


def test_truncation_is_noticed_though_the_file_is_longer_again(path, held):
    reader = Reader(path, held=held)
    append(path, lines(HEADER, csv_row(0), csv_row(1)))
    assert reader.all() == [0, 1]
    path.write_bytes(lines(HEADER, *map(csv_row, range(2, 9))))
    assert reader.all() == list(range(2, 9))


def test_the_copy_of_a_truncated_file_is_finished_first(path, held):
    """copytruncate of logrotate."""
    reader = Reader(path, held=held)
    append(path, lines(HEADER, csv_row(0)))
    assert reader.all() == [0]
    append(path, lines(csv_row(1), csv_row(2)))
    shutil.copy(path, path.with_name("steps.csv.1"))
    os.truncate(path, 0)
    assert reader.all() == [1, 2]
    append(path, lines(csv_row(3)))
    assert reader.all() == [3]


def test_an_older_file_with_the_same_first_lines_is_not_taken_for_a_copy(path, held):
    old = path.with_name("steps.csv.1")
    old.write_bytes(lines(HEADER, *map(csv_row, range(50, 60))))
    reader = Reader(path, held=held)
    append(path, lines(HEADER))
    assert reader.all() == []
    old.rename(path.with_name("steps.csv.2"))
    shutil.copy(path, old)
    os.truncate(path, 0)
    append(path, lines(csv_row(0)))
    assert reader.all() == [0]


def test_a_writer_that_does_not_append_leaves_a_hole_before_its_next_line(path):
    """Its offset stays where it was when the file is truncated under it."""
    reader = Reader(path)
    with path.open("wb", buffering=0) as stream:
        stream.write(lines(HEADER, *map(csv_row, range(9000))))
        stream.flush()
        assert reader.all() == list(range(9000))
        os.truncate(path, 0)
        assert reader.all() == []
        stream.write(lines(csv_row(9000), csv_row(9001)))
    assert path.read_bytes().startswith(b"\0" * 1000)
    assert reader.all() == [9000, 9001]
    assert reader.counts == {}


def test_another_file_of_the_same_size_and_inode_is_noticed(path):
    """As when a deleted file's inode is given to the next; one that is held open keeps its own."""
    reader = Reader(path)
    append(path, lines(HEADER, csv_row(1)))
    assert reader.all() == [1]
    before = path.stat()
    with path.open("r+b") as stream:
        stream.write(lines(HEADER, csv_row(2)))
    after = path.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert reader.all() == [2]


def test_a_copy_put_in_place_of_the_file_is_the_same_log(path, held):
    """As an editor or a restore leaves it."""
    reader = Reader(path, held=held)
    append(path, lines(HEADER, csv_row(0)))
    assert reader.all() == [0]
    copy = path.with_name("other")
    shutil.copy(path, copy)
    append(copy, lines(csv_row(1)))
    copy.replace(path)
    assert reader.all() == [1]


def test_a_renamed_file_and_its_twin_are_two_files(path, held):
    reader = Reader(path, held=held)
    append(path, lines(HEADER, csv_row(0)))
    assert reader.all() == [0]
    path.rename(path.with_name("steps.csv.1"))
    append(path, lines(HEADER, csv_row(0)))
    assert reader.all() == [0]


def test_the_end_of_a_file_may_be_the_start(path):
    append(path, lines(HEADER, *map(csv_row, range(3))) + csv_row(3)[:5])
    reader = Reader(path, from_end=True)
    assert reader.all() == []
    append(path, csv_row(3)[5:] + b"\n" + lines(b"garbage"))
    assert reader.all() == [3]
    assert reader.examples == [("wrong number of fields in the line", 6)]
    later = path.with_name("later.csv")
    reader = Reader(later, from_end=True)
    append(later, lines(HEADER, csv_row(0)))
    assert reader.all() == [0]


GARBAGE = {
    "csv": {
        b"once upon a time": "wrong number of fields in the line",
        HEADER: "header repeated",
        b'some-gpu,"some-model,4,4,1.5': "quotation without an end",
        b"some-gpu,some-model,4,4,abc": "not a number in latency_ms",
        b"some-gpu,some-model,4,4,-3": "latency_ms not positive",
        b"other-gpu,some-model,4,4,3": "gpu is not the one given",
        b"some-gpu,\xff\xfe,4,4,3": "not UTF-8 text",
        b"some-gpu,some\0model,4,4,3": "binary content",
        b"some-gpu,some-model\r,4,4,3": "line break within the line",
        b"": "blank line",
    },
    "jsonl": {
        b"once upon a time": "malformed JSON",
        b"[1, 2]": "not a JSON object",
        b'{"level": "info"}': "missing batch_size",
        b'{"batch_size": 4, "total_tokens": 4}': "missing latency_ms",
        jsonl_row(0).replace(b"some-gpu", b"other"): "gpu is not the one given",
        jsonl_row(0).replace(b"1.5", b"NaN"): "missing latency_ms",
        b'{"a": "\xff"}': "not UTF-8 text",
        b"[" * 100_000: "malformed JSON",
    },
    "fpm": {
        b"once upon a time": "malformed JSON",
        b'{"level": "info"}': "not a forward-pass record",
        fpm_row(0, "execute_model_cuda"): "another timing scope",
        fpm_row(0, wall=0.0): "idle heartbeat",
        fpm_row(0, wall=-1.0): "latency_ms not positive",
    },
    "vllm-log": {
        b"Iteration(7): 3 context": "unreadable iteration line",
        vllm_row(0).replace(b" 4 gen", b" 0 gen"): "idle step",
    },
}


@pytest.mark.parametrize("alone", [False, True], ids=["among rows", "alone"])
@pytest.mark.parametrize(
    ("format", "garbage", "reason"),
    [(format, *each) for format, cases in GARBAGE.items() for each in cases.items()],
    ids=[f"{format}: {reason}" for format, cases in GARBAGE.items() for reason in cases.values()],
)
def test_garbage_costs_its_line_and_is_named(tmp_path, format, garbage, reason, alone):
    path = tmp_path / "steps"
    head = [HEADER] if format == "csv" else []
    reader = Reader(path, format=format)
    row = ROWS[format]
    append(path, lines(*head, row(0)))
    found = reader.all() if alone else []
    append(path, lines(garbage))
    found += reader.all() if alone else []
    append(path, lines(row(1)))
    assert found + reader.all() == [0, 1]
    assert reader.counts == {reason: 1}
    if reason not in ("blank line", "idle heartbeat", "idle step"):
        assert reader.examples == [(reason, len(head) + 2)]


@pytest.mark.parametrize("format", ROWS)
def test_binary_junk_is_survived(tmp_path, format):
    path = tmp_path / "steps"
    junk = np.random.default_rng(1).bytes(200_000)
    head = [HEADER] if format == "csv" else []
    reader = Reader(path, format=format)
    append(path, lines(*head, ROWS[format](0), junk, ROWS[format](1)))
    assert reader.all() == [0, 1]
    n_junk = 0 if format == "vllm-log" else len([x for x in junk.split(b"\n") if x.strip()])
    assert sum(reader.counts.values()) >= n_junk


def test_a_line_of_100_mb_is_refused_in_bounded_memory(path):
    reader = Reader(path)
    append(path, lines(HEADER, csv_row(0)))
    assert reader.all() == [0]
    block = b"x" * 10_000_000
    for _ in range(5):
        append(path, block)
    tracemalloc.start()
    try:
        assert reader.all() == []
        for _ in range(5):
            append(path, block)
        append(path, lines(b"", csv_row(1)))
        assert reader.all() == [1]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 1e8
    assert peak < 6e7
    assert reader.counts == {"line longer than 1 MiB": 1}
    assert reader.examples == [("line longer than 1 MiB", 3)]


def test_a_complete_line_that_is_too_long_is_refused_too(path):
    reader = Reader(path)
    append(path, lines(HEADER, csv_row(0), b"x" * (MAX_LINE_BYTES + 1), csv_row(1)))
    assert reader.all() == [0, 1]
    assert reader.counts == {"line longer than 1 MiB": 1}


def test_another_header_holds_for_the_rows_after_it(path):
    reader = Reader(path)
    append(path, lines(HEADER, csv_row(0)))
    append(path, lines(b"latency_ms,batch_size,total_tokens,gpu,model"))
    append(path, lines(b"2.5,4,4,some-gpu,some-model"))
    assert reader.all() == [0, 1]
    path.rename(path.with_name("steps.csv.1"))
    append(path, lines(b"gpu,model,total_tokens,batch_size,latency_ms,phase"))
    append(path, lines(b"some-gpu,some-model,8,4,3.5,decode"))
    assert reader.all() == [2]
    assert reader.counts == {"header repeated": 1}


def test_rows_under_a_header_that_lacks_a_column_are_refused(path):
    reader = Reader(path)
    append(path, lines(HEADER, csv_row(0), b"gpu,model,batch_size,latency_ms", b"a,b,1,2"))
    assert reader.all() == [0]
    assert reader.counts == {"header repeated": 1, "no usable header before the line": 1}


def test_columns_may_be_mapped(path):
    options = ReadOptions(
        columns={"latency_ms": "took [s]", "batch_size": "n"}, gpu="some-gpu", model="some-model"
    )
    reader = Reader(path, options=options)
    append(path, lines(b"n,total_tokens,took", b"4,4,0.0015"))
    assert reader.all() == [0]
    append(path, lines(b"n,total_tokens,took", b"4,4,0.0025"))
    assert reader.all() == [1]
    assert reader.counts == {"header repeated": 1}


@pytest.mark.parametrize("tp", ["4", "4.0"])
def test_what_the_caller_says_may_stand_in_the_log_as_well(path, tp):
    reader = Reader(path, options=ReadOptions(gpu="some-gpu", tp=4))
    append(path, lines(HEADER + b",tp", csv_row(0) + b"," + tp.encode(), csv_row(1) + b",8"))
    assert reader.all() == [0]
    assert reader.counts == {"tp is not the one given": 1}


@pytest.mark.parametrize(
    ("format", "content", "about"),
    [
        ("vllm-log", vllm_row(0), "--gpu"),
        ("fpm", fpm_row(0), "--gpu"),
        ("csv", lines(b"batch_size,total_tokens,latency_ms", b"4,4,1.5"), "--gpu"),
        ("jsonl", b'{"batch_size": 4, "total_tokens": 4, "latency_ms": 1.5}', "--gpu"),
        ("csv", lines(b"a,b,c", b"1,2,3"), "without"),
        ("csv", lines(HEADER, csv_row(0).replace(b"some-model", b"other")), "--model"),
    ],
)
def test_what_makes_every_row_useless_is_said_at_once(tmp_path, format, content, about):
    path = tmp_path / "steps.log"
    append(path, content + b"\n")
    given = ReadOptions(model="some-model")
    position = following.start(path)
    with pytest.raises(InputError, match=about) as caught:
        following.read(position, format=format, options=given)
    assert path.name in str(caught.value)
    assert "/bayeslat-" not in str(caught.value)


def test_lines_before_the_first_step_are_counted_and_tell_no_format(tmp_path):
    path = tmp_path / "steps.log"
    reader = Reader(path)
    append(path, lines(b"starting up", b"still starting"))
    assert reader.all() == []
    append(path, lines(b'{"event": "ready"}'))
    assert reader.all() == []
    append(path, lines(vllm_row(0)))
    assert reader.all() == [0]
    assert reader.position.format == "vllm-log"
    assert reader.counts["line before the first step"] == 2


def test_the_format_stays_once_a_row_was_good(path):
    reader = Reader(path)
    append(path, lines(HEADER, csv_row(0), jsonl_row(1), csv_row(2)))
    assert reader.all() == [0, 2]
    append(path, lines(jsonl_row(3)))
    assert reader.all() == []
    assert reader.position.format == "csv"


def test_what_the_reader_refuses_of_a_chunk_is_narrowed_down_to_its_lines(path, monkeypatch):
    """Should a reader refuse a file for a line that nobody foresaw."""

    class Touchy(type(READERS["csv"])):
        def read(self, file, options):
            if b",13.5" in file.read_bytes():
                raise InputError("got 13")
            return super().read(file, options)

    monkeypatch.setattr(
        "bayeslat.observations.following.chunks.READERS", {**READERS, "csv": Touchy()}
    )
    reader = Reader(path)
    append(path, lines(HEADER, csv_row(0)))
    assert reader.all() == [0]
    append(path, lines(*map(csv_row, range(1, 20))))
    assert reader.all() == [i for i in range(1, 20) if i != 12]
    assert reader.counts == {"refused by the reader": 1}
    assert reader.examples == [("refused by the reader", 14)]


@pytest.mark.parametrize("name", ["parquet", "CSV", ""])
def test_a_format_that_cannot_be_followed_is_refused(path, name):
    with pytest.raises(InputError, match="format"):
        following.start(path, format=name)


def test_a_path_that_cannot_be_followed_is_refused(tmp_path):
    with pytest.raises(InputError, match="no plain file"):
        following.start(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="no plain file"):
        following.start(pipe)
    packed = tmp_path / "steps.csv.gz"
    packed.write_bytes(gzip.compress(lines(HEADER, csv_row(0))))
    with pytest.raises(InputError, match="compressed"):
        following.start(packed)


@pytest.mark.parametrize(
    "change", [{"offset": "3"}, {"offset": None}, {"more": 1}, {"skipping": 0}, {"older": [1]}]
)
def test_a_damaged_position_is_refused(path, change):
    values = following.start(path).to_dict()
    with pytest.raises(InputError, match="position"):
        following.Position.from_dict(values | change)
    values.pop("path")
    with pytest.raises(InputError, match="position"):
        following.Position.from_dict(values)


def test_nothing_is_taken_where_the_file_changes_under_the_reader(path, monkeypatch):
    """Truncated and written anew between the reading and the check that follows it."""
    append(path, lines(HEADER, csv_row(0)))
    position, _ = following.read(following.start(path))
    append(path, lines(csv_row(1)))
    advanced = following.Position.advanced

    def late(self, descriptor, **values):
        path.write_bytes(lines(HEADER, csv_row(5), csv_row(6), csv_row(7)))
        return advanced(self, descriptor, **values)

    monkeypatch.setattr(following.Position, "advanced", late)
    same, chunk = following.read(position)
    assert same == position
    assert numbers(chunk) == []
    monkeypatch.undo()
    assert numbers(following.read(same)[1]) == [5, 6, 7]


class Rotated:
    """A log that is written, rotated and copied at random, and never loses a line on its way."""

    def __init__(self, path: Path, seed: int, *, may_delete: bool):
        self.path, self.rng = path, np.random.default_rng([seed, 5])
        self.pending, self.written, self.n_files = lines(HEADER), 0, 0
        self.may_delete = may_delete

    def write(self) -> None:
        for _ in range(int(self.rng.integers(1, 30))):
            self.pending += csv_row(self.written) + self.rng.choice([b"\n", b"\r\n"])
            self.written += 1
        size = int(self.rng.integers(0, len(self.pending) + 1))
        append(self.path, self.pending[:size])
        self.pending = self.pending[size:]

    def complete(self) -> None:
        append(self.path, self.pending)
        self.pending = b""

    def rotate(self) -> None:
        self.complete()
        self.n_files += 1
        self.path.rename(self.path.with_name(f"{self.path.name}.{self.n_files}"))
        self.pending = lines(HEADER)

    def copy_and_truncate(self) -> None:
        self.complete()
        self.n_files += 1
        shutil.copy(self.path, self.path.with_name(f"{self.path.name}.{self.n_files}"))
        os.truncate(self.path, 0)

    def delete(self) -> None:
        self.complete()
        if self.may_delete:
            self.path.unlink()
            self.pending = lines(HEADER)


@pytest.mark.parametrize("seed", range(2))
def test_every_row_is_taken_once_through_many_mishaps(path, seed):
    """With a restart before each look; files are deleted only where one is held open.

    A file that is gone before a line of it was taken is lost: nothing tells that it was the log.
    """
    with following.Held() as box:
        may_delete = seed % 2 == 0
        reader = Reader(path, held=box if may_delete else None, max_lines=40)
        log, found, done = Rotated(path, seed, may_delete=may_delete), [], set()
        for _ in range(60):
            log.write()
            found += reader.all()
            at = reader.position
            seen = path.exists() and path.stat().st_ino == at.inode
            seen = seen and 0 < at.offset <= path.stat().st_size
            mishap = log.rng.choice(["", "rotate", "copy_and_truncate", "delete"], p=SHARES)
            if mishap and seen:
                log.write()
                getattr(log, mishap)()
                done.add(mishap)
                if log.rng.random() < 0.5:
                    log.write()
            found += reader.all()
        log.complete()
        found += reader.all()
    assert found == list(range(log.written))
    assert reader.counts == {}
    assert {"rotate", "copy_and_truncate"} <= done


SHARES = [0.4, 0.2, 0.2, 0.2]

WRITER = """
import sys, time, random
path, n = sys.argv[1], int(sys.argv[2])
random.seed(4)
content = b"gpu,model,batch_size,total_tokens,latency_ms\\n" + b"".join(
    b"some-gpu,some-model,4,4,%d.5\\n" % (i + 1) for i in range(n))
with open(path, "ab", buffering=0) as stream:
    while content:
        size = random.choice([1, 3, 50, 400, 5000])
        stream.write(content[:size]); content = content[size:]
        time.sleep(0.0005)
"""


def test_a_process_that_writes_meanwhile_is_followed(path, held):
    n_rows = 8000
    reader, found, looks = Reader(path, held=held), [], 0
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n_rows)]) as writer:
        while writer.poll() is None:
            found += reader.all()
            looks += 1
    found += reader.all()
    assert found == list(range(n_rows))
    assert looks > 3


def test_the_lines_of_a_chunk_come_from_one_file_and_the_good_rows_are_counted(path):
    append(path, lines(HEADER, csv_row(0), b"x", csv_row(1)))
    position, chunk = following.read(following.start(path))
    assert (position.n_good, position.n_files, position.line) == (2, 1, 4)
    assert chunk.steps.quarantine.n_read == 3
    path.rename(path.with_name("steps.csv.1"))
    append(path, lines(HEADER, csv_row(2)))
    position, chunk = following.read(position)
    assert (numbers(chunk), chunk.more) == ([], True)
    position, chunk = following.read(position)
    assert (numbers(chunk), position.n_files, position.line) == ([2], 2, 2)
    assert replace(position, n_good=0) != position
