"""What was acknowledged is on the disk under its number, and nothing else is."""

import os
from pathlib import Path

import pytest
from stand_ins import CHIP, batch

from bayeslat import storage
from bayeslat.errors import InputError, PosteriorFileError
from bayeslat.observations import Observations
from bayeslat.online.files import save_value
from bayeslat.online.journal import Entry, Journal, JournalError, read_entry


def test_entries_come_back_in_their_order(tmp_path: Path, tiny_steps: Observations) -> None:
    with Journal(tmp_path) as journal:
        entries = [Entry(steps=batch(1)), Entry(rollback=CHIP), Entry(steps=tiny_steps)]
        assert [journal.append(entry) for entry in entries] == [1, 2, 3]
        assert [journal.rows(number) for number in journal.numbers] == [30, 0, 120]
        assert read_entry(journal.path(1)).steps.equals(batch(1))
        assert read_entry(journal.path(2)).rollback == CHIP
        assert read_entry(journal.path(3)).steps.fingerprint == tiny_steps.fingerprint
    with Journal(tmp_path) as journal:
        assert [journal.rows(number) for number in journal.numbers] == [30, 0, 120]
        assert (journal.last, journal.after(0), journal.after(2), journal.after(3)) == (
            3,
            1,
            3,
            None,
        )
        assert journal.append(Entry(rollback=CHIP)) == 4


def test_what_a_checkpoint_holds_is_dropped(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for number in range(4):
            journal.append(Entry(steps=batch(number)))
        journal.drop(2)
        assert journal.numbers == [3, 4]
        assert [int(path.stem) for path in sorted(tmp_path.glob("*.batch"))] == [3, 4]
        journal.drop(9)
    with Journal(tmp_path) as journal:
        journal.continue_after(4)
        assert journal.append(Entry(steps=batch(5))) == 5


def test_a_number_is_never_used_again(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(Entry(steps=batch(1)))
        first = journal.put_aside(1)
        assert journal.numbers == []
    with Journal(tmp_path) as journal:
        assert journal.append(Entry(steps=batch(2))) == 2
        assert journal.put_aside(2) != first
    assert read_entry(first).steps.equals(batch(1))


def test_half_an_entry_is_none(tmp_path: Path) -> None:
    """What a killed process was writing goes; what is no part of the journal stays."""
    with Journal(tmp_path) as journal:
        journal.append(Entry(steps=batch(1)))
    (tmp_path / ".000000000002.batch.x1.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    with Journal(tmp_path) as journal:
        assert journal.numbers == [1]
    assert not list(tmp_path.glob(".*.part"))
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_nothing_of_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whichever write fails, that of the rows, their name, or the folder's list of names."""

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with Journal(tmp_path) as journal:
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            with pytest.raises(JournalError, match="nothing of them was acknowledged"):
                journal.append(Entry(steps=batch(1)))
        with monkeypatch.context() as patch:
            patch.setattr(storage, "_sync_folder", full)
            with pytest.raises(JournalError, match="No space left on device"):
                journal.append(Entry(steps=batch(1)))
        assert journal.numbers == []
        assert not [path for path in tmp_path.iterdir() if path.suffix in (".batch", ".part")]
        assert journal.append(Entry(steps=batch(1))) == 1


def test_a_folder_that_cannot_be_made_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="nothing can be written"):
        Journal(tmp_path / "file" / "below")


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(InputError, match="another runner is using"):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_an_entry_that_cannot_be_saved_is_not_acknowledged(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        with pytest.raises(InputError, match="column 'odd'"):
            journal.append(Entry(steps=batch(1).assign(odd=object())))
        assert journal.append(Entry(steps=batch(1))) == 1


def test_a_damaged_entry_says_so_when_it_is_read(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        path = journal.path(journal.append(Entry(steps=batch(1))))
    path.write_bytes(b"hello")
    with Journal(tmp_path) as journal:
        assert journal.rows(1) == 0
        with pytest.raises(PosteriorFileError, match="damaged"):
            read_entry(path)
    save_value("no entry", path)
    with pytest.raises(PosteriorFileError, match="with a str, expected an entry"):
        read_entry(path)
