"""Splits of recorded steps into what a contender may see and what it has to forecast.

Every split has a fixed seed and is a list of tasks. What is left out of a task is left out for
good: a contender sees `train` and `few`, and of `test` everything but the latencies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

import bayeslat as bl
from bayeslat.schema import Deployment

__all__ = [
    "DESIGN_POINT",
    "EDGE_SETTINGS",
    "FEW",
    "SPLITS",
    "Task",
    "deployment_of",
    "make_tasks",
    "read_frame",
]

SEED: Final = 20_240
HELD_OUT_SHARE: Final = 0.3
EXTRAPOLATION_FACTOR: Final = 4
FEW: Final = (0, 5, 10, 20)
"""Steps known of a deployment whose GPU or LLM is left out; each set holds the smaller ones."""

DEPLOYMENT: Final = ["gpu", "model", "tp", "engine"]
DESIGN_POINT: Final = ["batch_size", "total_tokens", "context_tokens", "phase"]
INNER_SETTINGS: Final = ("A100-80GB@60%", "A100-80GB@80%")
EDGE_SETTINGS: Final = ("A100-80GB@40%",)
"""Shares between others that were measured, and the one below all of them."""

TAIL_ENGINE: Final = "tgis"


@dataclass(frozen=True, eq=False)
class Task:
    """One question to all contenders.

    Attributes
    ----------
    split, name
        Of what kind the task is, and which of its kind.
    train
        Steps of known deployments: a steps table with the column ``deployment``.
    few
        Steps of the deployments that `train` does not hold; may be empty.
    test
        Steps to forecast.
    k
        Steps in `few` of each new deployment.
    """

    split: str
    name: str
    train: pd.DataFrame
    few: pd.DataFrame
    test: pd.DataFrame
    k: int = 0

    @property
    def is_new(self) -> bool:
        """Whether the training steps hold none of the deployments to forecast."""
        return not self.test["deployment"].isin(self.train["deployment"]).any()

    @property
    def known(self) -> pd.DataFrame:
        """All steps that a contender may learn from."""
        return pd.concat([self.train, self.few], ignore_index=True)


def read_frame(path: Path) -> pd.DataFrame:
    """Steps table with the column ``deployment``: one label for GPU, LLM, parallelism, engine."""
    frame = bl.read_steps(path).to_frame()
    labels = [Deployment(*row).label for row in frame[DEPLOYMENT].itertuples(index=False)]
    return frame.assign(deployment=labels)


def deployment_of(frame: pd.DataFrame) -> dict[str, Deployment]:
    """Label of each deployment in the frame, in sorted order, with what it stands for."""
    first = frame.drop_duplicates("deployment").sort_values("deployment")
    rows = first[DEPLOYMENT].itertuples(index=False)
    return {label: Deployment(*row) for label, row in zip(first["deployment"], rows, strict=True)}


def make_tasks(split: str, frame: pd.DataFrame) -> list[Task]:
    """All tasks of one split."""
    return SPLITS[split](frame)


def interpolation(frame: pd.DataFrame) -> list[Task]:
    """Some design points of every deployment held out, all their repeats with them."""
    rng = np.random.default_rng(SEED)
    held = np.zeros(len(frame), dtype=bool)
    for rows in _rows_of_each(frame):
        point = frame.iloc[rows].groupby(DESIGN_POINT, dropna=False).ngroup().to_numpy()
        n_points = point.max() + 1
        chosen = rng.permutation(n_points)[: round(HELD_OUT_SHARE * n_points)]
        held[rows] = np.isin(point, chosen)
    return [_task("interpolation", "all", frame, ~held, held)]


def extrapolation(frame: pd.DataFrame) -> list[Task]:
    """Train on up to a quarter of a deployment's largest batch and token count, test beyond."""
    by_deployment = frame.groupby("deployment")
    inside = np.ones(len(frame), dtype=bool)
    for column in ("batch_size", "total_tokens"):
        largest = by_deployment[column].transform("max")
        inside &= (frame[column] <= largest / EXTRAPOLATION_FACTOR).to_numpy()
    return [_task("extrapolation", "all", frame, inside, ~inside)]


def device_setting(frame: pd.DataFrame) -> list[Task]:
    """Shares of a GPU's compute units that nobody has measured, between others and at the edge."""
    present = [name for name in (*INNER_SETTINGS, *EDGE_SETTINGS) if (frame["gpu"] == name).any()]
    out = {name: (frame["gpu"] == name).to_numpy() for name in present}
    return [_task("device_setting", name, frame, ~rows, rows) for name, rows in out.items()]


def gpu_left_out(frame: pd.DataFrame) -> list[Task]:
    """Each GPU left out under exactly its name: the shares of one GPU are different GPUs."""
    return _left_out("gpu_left_out", frame, frame["gpu"])


def physical_gpu_left_out(frame: pd.DataFrame) -> list[Task]:
    """Each GPU that has shares left out with all of them; the others are in `gpu_left_out`."""
    physical = frame["gpu"].str.replace(r"@.*", "", regex=True)
    has_shares = physical[frame["gpu"] != physical].unique()
    return _left_out("physical_gpu_left_out", frame, physical, only=has_shares)


def llm_left_out(frame: pd.DataFrame) -> list[Task]:
    """Each LLM left out."""
    return _left_out("llm_left_out", frame, frame["model"])


def tail(frame: pd.DataFrame) -> list[Task]:
    """Half of the decode steps of production-like logs, drawn row by row within a deployment."""
    rng = np.random.default_rng(SEED)
    held = np.zeros(len(frame), dtype=bool)
    decode = ((frame["engine"] == TAIL_ENGINE) & (frame["phase"] == "decode")).to_numpy()
    for rows in _rows_of_each(frame):
        own = rows[decode[rows]]
        held[rng.permutation(own)[: own.size // 2]] = True
    return [_task("tail", "decode", frame, ~held, held)]


SPLITS: Final[dict[str, Callable[[pd.DataFrame], list[Task]]]] = {
    "interpolation": interpolation,
    "extrapolation": extrapolation,
    "device_setting": device_setting,
    "gpu_left_out": gpu_left_out,
    "physical_gpu_left_out": physical_gpu_left_out,
    "llm_left_out": llm_left_out,
    "tail": tail,
}


def _left_out(
    split: str, frame: pd.DataFrame, names: pd.Series, only: Sequence[str] | None = None
) -> list[Task]:
    """For each name tasks with more and more steps known, all with the same test rows."""
    rng = np.random.default_rng(SEED)
    order = _random_rank(frame, rng)
    tasks = []
    for name in sorted(names.unique() if only is None else only):
        out = (names == name).to_numpy()
        test = out & (order >= max(FEW))
        for k in FEW:
            few = frame[out & (order < k)]
            tasks.append(_task(split, f"{name} k={k}", frame, ~out, test, few, k))
    return tasks


def _random_rank(frame: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Position of each row in a random order of its deployment's rows."""
    rank = np.empty(len(frame), dtype=np.int64)
    for rows in _rows_of_each(frame):
        rank[rng.permutation(rows)] = np.arange(rows.size)
    return rank


def _rows_of_each(frame: pd.DataFrame) -> list[np.ndarray]:
    """Positions of the rows of every deployment, deployments in sorted order."""
    groups = frame.groupby("deployment", sort=True).indices
    return [groups[label] for label in sorted(groups)]


def _task(
    split: str,
    name: str,
    frame: pd.DataFrame,
    train: np.ndarray,
    test: np.ndarray,
    few: pd.DataFrame | None = None,
    k: int = 0,
) -> Task:
    known = frame.iloc[:0] if few is None else few
    parts = (part.reset_index(drop=True) for part in (frame[train], known, frame[test]))
    return Task(split, name, *parts, k=k)
