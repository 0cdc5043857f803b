"""The README says what the program does: names exist, and the example runs as printed."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import typer

import bayeslat
from bayeslat import evaluation, online
from bayeslat.cli import app

TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
EXAMPLES = [code for language, code in BLOCKS if language == "python"]
OUTPUTS = [text for language, text in BLOCKS if language == "text"]
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def test_examples_are_short_and_have_their_output() -> None:
    assert len(EXAMPLES) == len(OUTPUTS) == 4
    assert all(len(example.strip().splitlines()) <= 12 for example in EXAMPLES)


@pytest.mark.parametrize(
    ("prefix", "owner"),
    [
        ("bl", bayeslat),
        ("fleet", bayeslat.FleetPosterior),
        ("new", bayeslat.FleetPosterior),
        ("latency", bayeslat.LatencyDistribution),
        ("served", bayeslat.ServedDeployment),
        ("gate", bayeslat.Gate),
        ("online", online),
        ("evaluation", evaluation),
        ("runner", online.OnlineRunner),
        ("state", online.OnlineState),
    ],
)
def test_every_name_in_the_readme_exists(prefix: str, owner: object) -> None:
    names = set(re.findall(rf"(?<![\w.]){prefix}\.(\w+)\(", TEXT))
    assert names
    assert {name for name in names if name not in dir(owner)} == set()


COMMANDS = re.findall(r"`bayeslat ([a-z][a-z-]*)([^`]*)`", TEXT)


@pytest.mark.parametrize(("command", "rest"), COMMANDS)
def test_every_command_in_the_readme_exists(command: str, rest: str) -> None:
    commands = getattr(typer.main.get_command(app), "commands")  # noqa: B009
    assert command in commands
    options = {name for parameter in commands[command].params for name in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", rest)) <= options


@pytest.mark.slow
def test_example_prints_what_the_readme_shows() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\n".join(EXAMPLES), "README.md", "exec"), {})
    got, shown = printed.getvalue(), "".join(OUTPUTS)
    assert NUMBER.sub("#", got) == NUMBER.sub("#", shown)
    # Draws differ a little between machines; what they say does not.
    values = [np.array(NUMBER.findall(text), dtype=float) for text in (got, shown)]
    np.testing.assert_allclose(*values, rtol=0.1, atol=0.02)
