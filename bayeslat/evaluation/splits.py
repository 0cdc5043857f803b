"""Splits of a step log into what contenders may see and what they have to predict.

Every split is a list of folds, made with a seed. What a fold leaves out is left out for good: a
contender sees `known` and `few`, and of `test` everything but the latencies.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bayeslat.catalog import Catalog, load_catalog
from bayeslat.errors import InputError
from bayeslat.observations import Observations

__all__ = ["SPLITS", "Fold", "SplitSettings", "make_folds", "thinned"]

type Mask = NDArray[np.bool_]

MIN_ROWS: Final = 20
"""Fewest steps to learn from, and to predict, in a fold."""

MIN_ROWS_INSIDE: Final = 10
"""Steps of a deployment that must be within its inner range for its outer one to be asked."""


@dataclass(frozen=True)
class SplitSettings:
    """How splits are made.

    Attributes
    ----------
    seed
        Of every random choice.
    held_out
        Share of the design points of every deployment that ``points`` holds out.
    factor
        ``extrapolation`` knows steps up to this fraction of the largest B and S.
    few
        Steps known of each deployment of a GPU or LLM that is left out; each set holds the smaller
        ones.
    min_train_size, test_window
        Of the time-ordered split, in rows: the first fold knows so many, and each fold predicts the
        next so many, the last one all that are left. By default half of the rows and a tenth.
    """

    seed: int = 0
    held_out: float = 0.3
    factor: float = 4.0
    few: tuple[int, ...] = (0, 5, 10, 20)
    min_train_size: int | None = None
    test_window: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise InputError(f"got held_out {self.held_out}, expected a share between 0 and 1")
        if not self.factor > 1:
            raise InputError(f"got factor {self.factor}, expected a number above 1")
        if not self.few or min(self.few) < 0 or len(set(self.few)) < len(self.few):
            raise InputError(f"got few {self.few}, expected different numbers of steps from 0 on")
        for name in ("min_train_size", "test_window"):
            value = getattr(self, name)
            if value is not None and value < MIN_ROWS:
                raise InputError(f"got {name} {value}, expected at least {MIN_ROWS} rows; raise it")


@dataclass(frozen=True, eq=False)
class Fold:
    """One question to all contenders.

    Attributes
    ----------
    split, name
        Of what kind the question is, and which of its kind.
    known
        Steps of known deployments.
    few
        Steps of deployments that `known` does not hold; None where there are none.
    test
        Steps to predict, with their latencies.
    k
        Steps in `few` of each new deployment; None where the split has no such number.
    """

    split: str
    name: str
    known: Observations
    few: Observations | None
    test: Observations
    k: int | None = None

    @property
    def label(self) -> str:
        """Name of the fold, with what is known of its new deployments."""
        return self.name if self.k is None else f"{self.name}, k = {self.k}"

    @cached_property
    def questions(self) -> Observations:
        """The steps to predict without their latencies."""
        return replace(self.test, latency_ms=np.full(len(self.test), np.nan))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that the fold holds and of the order of its test rows."""
        digest = hashlib.sha256(repr((self.split, self.name, self.k)).encode())
        for part in (self.known, self.few, self.test):
            digest.update((part.fingerprint if part is not None else "-").encode())
        digest.update(self.test.latency_ms.tobytes())
        return digest.hexdigest()


def make_folds(
    observations: Observations,
    split: str,
    settings: SplitSettings | None = None,
    *,
    catalog: Catalog | None = None,
) -> list[Fold]:
    """Folds of one split.

    Parameters
    ----------
    observations : Observations
        The log.
    split : str
        One of `SPLITS`.
    settings : SplitSettings, optional
        The defaults where left out.
    catalog : Catalog, optional
        Tells which names are shares of the same device; the bundled datasheets by default.

    Raises
    ------
    InputError
        An unknown split, or steps of which it cannot be made; the message says what is missing.
    """
    if split not in SPLITS:
        raise InputError(f"got split {split!r}, expected one of {', '.join(SPLITS)}; correct it")
    folds = SPLITS[split](observations, settings or SplitSettings(), catalog or load_catalog())
    for fold in folds:
        for name, part in (("learn from", fold.known), ("predict", fold.test)):
            if len(part) < MIN_ROWS:
                raise InputError(
                    f"got {len(part)} steps to {name} in fold {fold.label!r} of split {split!r},"
                    f" expected at least {MIN_ROWS}; give a longer log or choose another split"
                )
    return folds


def thinned(log: Observations, max_rows: int, *, seed: int = 0) -> Observations:
    """At most so many steps of every deployment, drawn at random.

    Raises
    ------
    InputError
        Fewer than one row.
    """
    if max_rows < 1:
        raise InputError(f"got at most {max_rows} rows a deployment, expected at least 1; raise it")
    return log.select(_random_rank(log, seed) < max_rows)


def points(log: Observations, settings: SplitSettings, catalog: Catalog) -> list[Fold]:
    """Some design points of every deployment held out, all their repeats with them."""
    rng = np.random.default_rng(settings.seed)
    held = np.zeros(len(log), dtype=bool)
    design = np.stack([log.batch_size, log.total_tokens, log.context_tokens], axis=1)
    for rows in _rows_of_each(log):
        _, point = np.unique(design[rows], axis=0, return_inverse=True, equal_nan=True)
        n_points = int(point.max()) + 1
        chosen = rng.permutation(n_points)[: round(settings.held_out * n_points)]
        held[rows] = np.isin(point, chosen)
    return [_fold("points", "all", log, ~held, held)]


def time(log: Observations, settings: SplitSettings, catalog: Catalog) -> list[Fold]:
    """Windows in order of time, each predicted from every step before its first.

    The last window takes the rest, where that is too short for one of its own.
    """
    dated = np.isfinite(log.timestamp)
    if not dated.all():
        raise InputError(
            f"got {np.count_nonzero(~dated):,} of {len(log):,} steps without a timestamp, expected"
            " times for all; add the column timestamp or choose another split"
        )
    order = np.argsort(log.timestamp, kind="stable")
    first = settings.min_train_size or len(log) // 2
    window = settings.test_window or max(len(log) // 10, MIN_ROWS)
    if first + window > len(log):
        raise InputError(
            f"got {len(log):,} steps, expected at least {first + window:,} for a first fold of"
            f" {first:,} and a window of {window:,}; lower min_train_size or test_window"
        )
    starts = range(first, len(log) - window + 1, window)
    folds = []
    for number, (start, stop) in enumerate(pairwise([*starts, len(log)]), start=1):
        test = np.zeros(len(log), dtype=bool)
        test[order[start:stop]] = True
        # Steps of one and the same time have no order: none of them is known before another.
        known = log.timestamp < log.timestamp[order[start]]
        folds.append(_fold("time", f"window {number}", log, known, test))
    return folds


def extrapolation(log: Observations, settings: SplitSettings, catalog: Catalog) -> list[Fold]:
    """Known up to a fraction of a deployment's largest B and S, asked beyond.

    A deployment with fewer than ten steps within is known as a whole.
    """
    inside = np.ones(len(log), dtype=bool)
    for rows in _rows_of_each(log):
        for values in (log.batch_size[rows], log.total_tokens[rows]):
            # A quantity that never changes has no beyond.
            if values.min() < values.max():
                inside[rows] &= values <= values.max() / settings.factor
        if np.count_nonzero(inside[rows]) < MIN_ROWS_INSIDE:
            inside[rows] = True
    return [_fold("extrapolation", "all", log, inside, ~inside)]


def new_gpu(log: Observations, settings: SplitSettings, catalog: Catalog) -> list[Fold]:
    """Each GPU left out, with all the shares of it that were measured."""
    names = [catalog.gpu(deployment.gpu).device for deployment in log.deployments]
    return _left_out("new-gpu", "GPU", log, names, settings)


def new_llm(log: Observations, settings: SplitSettings, catalog: Catalog) -> list[Fold]:
    """Each LLM left out."""
    names = [deployment.model for deployment in log.deployments]
    return _left_out("new-llm", "LLM", log, names, settings)


SPLITS: Final[dict[str, Callable[[Observations, SplitSettings, Catalog], list[Fold]]]] = {
    "points": points,
    "time": time,
    "extrapolation": extrapolation,
    "new-gpu": new_gpu,
    "new-llm": new_llm,
}
"""Ways to split a log, by name."""


def _left_out(
    split: str, kind: str, log: Observations, names: Sequence[str], settings: SplitSettings
) -> list[Fold]:
    """For each name folds with more and more steps known, all with the same test rows."""
    distinct = sorted(set(names))
    if len(distinct) < 2:
        raise InputError(
            f"got steps of one {kind} only ({distinct[0]}), expected at least two to leave one"
            " out; choose another split"
        )
    rank = _random_rank(log, settings.seed)
    of_row = np.array(names)[log.deployment_index]
    folds = []
    for name in distinct:
        out = of_row == name
        test = out & (rank >= max(settings.few))
        for k in sorted(settings.few):
            few = log.select(out & (rank < k)) if k else None
            folds.append(_fold(split, name, log, ~out, test, few, k))
    return folds


def _random_rank(log: Observations, seed: int) -> NDArray[np.int64]:
    """Position of each row in a random order of its deployment's rows."""
    rng = np.random.default_rng(seed)
    rank = np.empty(len(log), dtype=np.int64)
    for rows in _rows_of_each(log):
        rank[rng.permutation(rows)] = np.arange(rows.size)
    return rank


def _rows_of_each(log: Observations) -> list[NDArray[np.int64]]:
    """Positions of the rows of every deployment."""
    slices = [log.slice_of(deployment) for deployment in log.deployments]
    return [np.arange(own.start, own.stop) for own in slices]


def _fold(
    split: str,
    name: str,
    log: Observations,
    known: Mask,
    test: Mask,
    few: Observations | None = None,
    k: int | None = None,
) -> Fold:
    return Fold(split, name, log.select(known), few, log.select(test), k)
