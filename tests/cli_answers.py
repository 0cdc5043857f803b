"""What commands answered: exit code, standard output and standard error, as `run` gives them."""

import json
from typing import Any


def answered(answer: tuple[int, str, str]) -> dict[str, Any]:
    """The JSON of a command that succeeded."""
    code, out, err = answer
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def said(answer: tuple[int, str, str]) -> str:
    """What a command that succeeded told people, without its line ends."""
    code, out, err = answer
    assert code == 0, err
    return " ".join(out.split())


def refused(answer: tuple[int, str, str], *, about: str) -> None:
    """Hold that a command refused with one line that says why, and nothing else."""
    code, out, err = answer
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert about in err
