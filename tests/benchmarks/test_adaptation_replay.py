"""Recorded rows are replayed whole and as they are, but for a slow-down that is injected."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from adaptation.replay import (
    DEPLOYMENTS,
    INJECTED,
    INJECTED_GPU,
    KNOWN,
    ONSET,
    PROBES,
    REPLAYS,
    recorded_rows,
    replay_stream,
    split_rows,
)
from adaptation.streams import of_deployment
from bayeslat.errors import InputError

BY_NAME = {replay.name: replay for replay in REPLAYS}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Rows as the file has them, their latencies all different."""
    parts = []
    for number, deployment in enumerate(DEPLOYMENTS):
        n = 700 + 50 * number
        table = pd.DataFrame({**deployment._asdict(), "batch_size": np.arange(n) // 20 + 1})
        parts.append(table.assign(total_tokens=table["batch_size"], context_tokens=0.0))
    frame = pd.concat(parts, ignore_index=True)
    latency = 10.0 + np.arange(len(frame)) / 1000
    return frame.assign(latency_ms=latency, n_averaged=1, phase="decode")


def test_known_rows_and_the_rest_are_all_rows(rows: pd.DataFrame) -> None:
    known, rest = split_rows(rows)
    assert len(known) == KNOWN * len(DEPLOYMENTS)
    both = pd.concat([known, rest])["latency_ms"].sort_values().to_numpy()
    assert np.array_equal(both, rows["latency_ms"].to_numpy())
    for part in (known, rest):
        for deployment in DEPLOYMENTS:
            assert of_deployment(part, deployment)["latency_ms"].is_monotonic_increasing


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_replay_holds_every_row_in_its_order(rows: pd.DataFrame, name: str) -> None:
    replay, (_, rest) = BY_NAME[name], split_rows(rows)
    stream = replay_stream(replay, rest, seed=1)
    assert len(stream.steps) == len(rest)
    for deployment in DEPLOYMENTS:
        own = of_deployment(stream.steps, deployment)
        factor = np.where(np.arange(len(own)) >= ONSET, 1.0 + INJECTED, 1.0)
        slowed = replay.injected and deployment.gpu == INJECTED_GPU
        latency = own["latency_ms"].to_numpy() / (factor if slowed else 1.0)
        expected = of_deployment(rest, deployment)["latency_ms"].to_numpy()
        assert np.sort(latency) == pytest.approx(expected)
        assert (np.diff(latency) > 0).all() != replay.shuffled
    assert stream.onset == (ONSET if replay.injected else None)


def test_probes_are_the_rows_to_come_on_one_side_of_the_change(rows: pd.DataFrame) -> None:
    _, rest = split_rows(rows)
    stream = replay_stream(BY_NAME["replay-shuffled-slow"], rest, seed=1)
    deployment = stream.tracked[0]
    own = of_deployment(stream.steps, deployment)["latency_ms"].to_numpy()
    for seen, n in ((0, 200), (100, 150), (200, 0), (ONSET, PROBES), (len(own) - 50, 0)):
        probe = stream.world.probe(deployment, seen)
        assert np.array_equal(probe["latency_ms"], own[seen : seen + n])
    steps = of_deployment(rest, deployment).head(3)
    factors = stream.world.factor(deployment, steps, np.array([0, ONSET - 1, ONSET]))
    assert factors == pytest.approx([1 / (1 + INJECTED), 1 / (1 + INJECTED), 1.0])
    still = replay_stream(replace(BY_NAME["replay-shuffled-slow"], injected=False), rest, seed=1)
    assert still.world.factor(deployment, steps, 0) == pytest.approx(np.ones(3))


def test_without_the_file_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got no file .*none\.csv, expected the recorded"):
        recorded_rows(tmp_path / "none.csv")


def test_the_recorded_deployments_are_there(shared_data: Path) -> None:
    found = recorded_rows(shared_data / "fleet_steps.csv")
    counts = [len(of_deployment(found, deployment)) for deployment in DEPLOYMENTS]
    assert min(counts) >= KNOWN + ONSET + PROBES
    assert sum(counts) == len(found)
