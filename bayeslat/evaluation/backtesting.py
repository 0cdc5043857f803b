"""Backtests: steps of a log are held out, and every contender is asked for them."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any, Final, NamedTuple, Self

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from bayeslat.catalog import Catalog
from bayeslat.errors import InputError
from bayeslat.evaluation.base import Array, Contender
from bayeslat.evaluation.ours import Bayeslat, FittedBayeslat
from bayeslat.evaluation.regimes import REGIMES, regimes_of
from bayeslat.evaluation.scores import LEVELS, at_level, score_quantiles
from bayeslat.evaluation.splits import Fold, SplitSettings, make_folds
from bayeslat.evaluation.store import Prediction, Store
from bayeslat.evaluation.versions import digest, package_versions, source_digest
from bayeslat.observations import Observations
from bayeslat.observations.files import replacing

__all__ = ["ALL_REGIMES", "Backtest", "Failure", "backtest"]

ALL_REGIMES: Final = "all"

TEXTS: Final = ("split", "fold", "contender", "deployment", "regime")
"""Columns of the scores that are no numbers."""

SCORES: Final = tuple(score_quantiles([1.0], np.ones((1, len(LEVELS)))))
COLUMNS: Final = (
    "split", "fold", "k", "contender", "deployment", "regime", "rows", *SCORES, "seconds",
    "max_rhat",
)  # fmt: skip
"""Columns of the scores."""

RIVAL_SOURCES: Final = ("catalog", "evaluation/rivals", "schema.py")
RIVAL_PACKAGES: Final = ("lightgbm", "numpy", "scikit-learn", "scipy", "xgboost-cpu")
"""What decides the predictions of rivals, beside their own version and the datasheets."""

MEDIAN: Final = LEVELS.index(0.5)


class _Asked(NamedTuple):
    """A contender, and what tells whether a prediction that was kept is still its own."""

    contender: Contender
    version: str


@dataclass(frozen=True)
class Failure:
    """A contender that could not answer a fold, and why."""

    split: str
    fold: str
    contender: str
    reason: str


@dataclass(frozen=True, eq=False)
class Backtest:
    """Scores of contenders on held-out steps.

    Attributes
    ----------
    scores : DataFrame
        A row a fold, contender, deployment and regime (``all`` is every step of the deployment):
        columns ``split``, ``fold``, ``k`` (NaN where the split has no few steps), ``contender``,
        ``deployment``, ``regime``, ``rows``, the scores of
        `bayeslat.evaluation.scores.score_quantiles`, ``seconds`` and ``max_rhat`` of the fold.
    failures : tuple of Failure
        Contenders that could not answer; none of their scores in that split count.
    notes : tuple of str
        What the log does not allow to be judged, each one sentence.
    source : dict
        Data, its fingerprint, and the settings.
    """

    scores: pd.DataFrame
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    source: dict[str, Any]

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that some contender answered throughout, in order."""
        failed = {(each.split, each.contender) for each in self.failures}
        pairs = dict.fromkeys(zip(self.scores["split"], self.scores["contender"], strict=True))
        return tuple(dict.fromkeys(split for split, name in pairs if (split, name) not in failed))

    def medians(self, split: str, *, regime: str = ALL_REGIMES) -> pd.DataFrame:
        """Median over deployments of every score, a row a contender and k.

        A deployment that several folds ask for (windows of time) counts once a fold. Contenders
        that failed in the split are left out.

        Raises
        ------
        InputError
            A split that was not asked, or a regime without steps.
        """
        failed = {each.contender for each in self.failures if each.split == split}
        own = self.scores[(self.scores["split"] == split) & (self.scores["regime"] == regime)]
        own = own[~own["contender"].isin(failed)]
        if own.empty:
            raise InputError(
                f"got split {split!r} and regime {regime!r}, expected one of"
                f" {', '.join(self.splits)} with one of {', '.join(self.regimes(split))}"
            )
        keys = ["contender", "k"]
        numbers = own.drop(columns=[name for name in TEXTS if name != "contender"])
        return numbers.groupby(keys, sort=False, dropna=False).median().reset_index()

    def regimes(self, split: str) -> tuple[str, ...]:
        """Regimes that the split's steps fall into."""
        found = set(self.scores.loc[self.scores["split"] == split, "regime"])
        return tuple(name for name in (ALL_REGIMES, *REGIMES) if name in found)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values; what is not finite is null."""
        return {
            "source": self.source,
            "notes": list(self.notes),
            "failures": [asdict(each) for each in self.failures],
            "scores": json.loads(self.scores.to_json(orient="records", double_precision=15)),
        }

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of `save`.

        Raises
        ------
        InputError
            There is no such file, or it holds something else.
        """
        try:
            read = json.loads(Path(path).read_text(encoding="utf-8"))
            scores = pd.DataFrame(read["scores"], columns=COLUMNS)
            failures = tuple(Failure(**each) for each in read["failures"])
            found = cls(scores, failures, tuple(read["notes"]), read["source"])
            # Null is NaN; a column without any number would be of objects.
            numbers = [name for name in scores.columns if name not in TEXTS]
            scores[numbers] = scores[numbers].astype(float)
        except OSError as error:
            raise InputError(
                f"got {path}, which cannot be opened, expected the backtest.json of a backtest;"
                " correct the path"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"got {path}, which cannot be read as a backtest ({error}), expected a file that"
                " bayeslat backtest wrote; make it again"
            ) from error
        return found

    def save(self, path: str | Path) -> None:
        """Write a JSON file, whole or not at all."""
        text = json.dumps(self.to_dict(), indent=1)
        replacing(Path(path), lambda target: _write(target, text))


def backtest(
    observations: Observations,
    splits: Sequence[str],
    contenders: Sequence[Contender],
    *,
    settings: SplitSettings | None = None,
    catalog: Catalog | None = None,
    folder: str | Path | None = None,
    workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Backtest:
    """Ask every contender for held-out steps, on identical splits.

    Parameters
    ----------
    observations : Observations
        The log.
    splits : sequence of str
        Names in `bayeslat.evaluation.splits.SPLITS`.
    contenders : sequence of Contender
        `Bayeslat`, and whoever it shall be compared with.
    settings : SplitSettings, optional
        How splits are made.
    catalog : Catalog, optional
        Datasheets; the bundled ones by default.
    folder : str or Path, optional
        Keeps fits and predictions: a backtest that was stopped goes on where it was. Without it
        nothing is kept.
    workers : int
        Processes that work on folds at the same time.
    progress : callable, optional
        Told after every prediction: which, how many are done, and of how many.

    Raises
    ------
    InputError
        Steps that cannot be split so, no contender, or two of the same name.
    """
    names = [each.name for each in contenders]
    if not names or len(set(names)) < len(names):
        raise InputError(f"got contenders {names}, expected at least one and no name twice")
    if workers < 1:
        raise InputError(f"got {workers} workers, expected at least 1; raise it")
    _check_latencies(observations)
    settings = settings or SplitSettings()
    folds = [fold for split in dict.fromkeys(splits)
             for fold in make_folds(observations, split, settings, catalog=catalog)]  # fmt: skip
    with _place(folder) as place:
        store = Store(place / "predictions")
        asked = [_asked(each, place / "fleets", catalog) for each in contenders]
        _ask(folds, asked, store, workers, progress)
        return _judged(observations, folds, asked, store, settings)


def _judged(
    log: Observations,
    folds: Sequence[Fold],
    contenders: Sequence[_Asked],
    store: Store,
    settings: SplitSettings,
) -> Backtest:
    records: list[dict[str, Any]] = []
    failures = []
    for fold in folds:
        for contender, version in contenders:
            found = store.read(fold, contender.name, version)
            assert found is not None, "every fold was asked"
            if found.failure:
                failures.append(Failure(fold.split, fold.label, contender.name, found.failure))
            else:
                records += _records(fold, contender.name, found)
    source = {
        "data": log.source,
        "fingerprint": log.fingerprint,
        "rows": len(log),
        "deployments": [each.label for each in log.deployments],
        "settings": asdict(settings),
    }
    return Backtest(
        pd.DataFrame(records, columns=COLUMNS), tuple(failures), _notes(log, folds), source
    )


def _ask(
    folds: Sequence[Fold],
    contenders: Sequence[_Asked],
    store: Store,
    workers: int,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Predictions of all folds that are not kept yet."""
    total, done = len(folds) * len(contenders), 0
    # Folds that know the same steps share a fit, so they are one piece of work.
    jobs = [list(each) for _, each in groupby(folds, key=lambda fold: (fold.split, fold.name))]
    for said in _said(jobs, contenders, store, workers):
        done += 1
        if progress is not None:
            progress(said, done, total)


def _said(
    jobs: Sequence[Sequence[Fold]], contenders: Sequence[_Asked], store: Store, workers: int
) -> Iterator[str]:
    if workers == 1:
        for job in jobs:
            yield from _answers(job, contenders, store)
        return
    # Processes that are spawned know nothing of the threads of JAX in this one.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [
            pool.submit(_answer_all, job, [contender], store)
            for job in jobs
            for contender in contenders
        ]
        for future in as_completed(futures):
            yield from future.result()


def _answer_all(job: Sequence[Fold], contenders: Sequence[_Asked], store: Store) -> list[str]:
    return list(_answers(job, contenders, store))


def _answers(job: Sequence[Fold], contenders: Sequence[_Asked], store: Store) -> Iterator[str]:
    for fold in job:
        for contender, version in contenders:
            kept = store.read(fold, contender.name, version)
            # What stood in the way of an answer may be gone: another memory, a package installed.
            if kept is None or kept.failure:
                store.write(fold, contender.name, version, _answer(fold, contender))
            yield f"{fold.split}, {fold.label}: {contender.name}"


def _answer(fold: Fold, contender: Contender) -> Prediction:
    start = perf_counter()
    # More threads than cores would measure the waiting of one contender for another.
    limited = nullcontext() if isinstance(contender, Bayeslat) else threadpool_limits(1)
    try:
        with limited:
            fitted = contender.fit(fold.known, fold.few)
            quantiles = np.asarray(fitted.predict_quantiles(fold.questions, LEVELS), dtype=float)
        _check_answer(quantiles, len(fold.test))
    # Packages of rivals have exceptions of their own; whichever it is, the others have their say.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Prediction(np.empty((0, len(LEVELS))), perf_counter() - start, failure=reason)
    rhat = fitted.max_rhat if isinstance(fitted, FittedBayeslat) else float("nan")
    return Prediction(quantiles, perf_counter() - start, rhat)


def _check_answer(quantiles: Array, n_rows: int) -> None:
    """Refuse what cannot be scored: a contender answers every step, or none."""
    if quantiles.shape != (n_rows, len(LEVELS)):
        raise InputError(
            f"got quantiles of shape {quantiles.shape}, expected {(n_rows, len(LEVELS))}"
        )
    median = at_level(quantiles, 0.5)
    if not (np.isfinite(median) & (median > 0)).all():
        raise InputError("got medians that are not positive and finite, expected milliseconds")
    if np.isnan(quantiles).any() and not np.isnan(np.delete(quantiles, MEDIAN, axis=1)).all():
        raise InputError("got intervals for some steps only, expected them for all or for none")


def _records(fold: Fold, contender: str, found: Prediction) -> list[dict[str, Any]]:
    """Scores of every deployment of a fold, all its steps and each regime of them."""
    records, regimes = [], regimes_of(fold.test)
    for deployment in fold.test.deployments:
        own = np.zeros(len(fold.test), dtype=bool)
        own[fold.test.slice_of(deployment)] = True
        for regime in (ALL_REGIMES, *REGIMES):
            rows = own if regime == ALL_REGIMES else own & (regimes == regime)
            if rows.any():
                scores = score_quantiles(fold.test.latency_ms[rows], found.quantiles[rows])
                records.append(
                    {
                        "split": fold.split,
                        "fold": fold.name,
                        "k": float("nan") if fold.k is None else float(fold.k),
                        "contender": contender,
                        "deployment": deployment.label,
                        "regime": regime,
                        "rows": int(rows.sum()),
                        **scores,
                        "seconds": found.seconds,
                        "max_rhat": found.max_rhat,
                    }
                )
    return records


def _check_latencies(log: Observations) -> None:
    if len(log) and np.ptp(log.latency_ms) == 0:
        raise InputError(
            f"got {len(log):,} steps that all took {log.latency_ms[0]:g} ms, expected measured"
            " latencies, which differ; look at the clock of the log"
        )


def _notes(log: Observations, folds: Sequence[Fold]) -> tuple[str, ...]:
    """What the log does not allow to be judged."""
    notes = []
    if len(log.deployments) == 1:
        notes.append(
            "One deployment only: there is no other to pool with, and nothing is said of new ones."
        )
    for name, values in (("batch size", log.batch_size), ("number of tokens", log.total_tokens)):
        if log.n_rows and np.ptp(values) == 0:
            notes.append(
                f"All steps have the same {name} ({values[0]:g}): how latency follows it is the"
                " prior's word, and no split can judge it."
            )
    asked = {label.label for fold in folds for label in fold.test.deployments}
    never = [each.label for each in log.deployments if each.label not in asked]
    if never:
        shown = ", ".join(never[:3]) + (f" and {len(never) - 3} more" if len(never) > 3 else "")
        notes.append(f"No step of {shown} was left to predict: too few rows for these splits.")
    return tuple(notes)


def _asked(contender: Contender, folder: Path, catalog: Catalog | None) -> _Asked:
    """The package's own with a folder for its fits and the datasheets; others as they are."""
    if isinstance(contender, Bayeslat):
        ours = replace(
            contender,
            folder=contender.folder or folder,
            catalog=contender.catalog or catalog,
        )
        return _Asked(ours, ours.version)
    sources, packages = source_digest(RIVAL_SOURCES), package_versions(RIVAL_PACKAGES)
    return _Asked(contender, digest(contender.version, repr(catalog), sources, packages))


@contextmanager
def _place(folder: str | Path | None) -> Iterator[Path]:
    """The folder given, or one for the time of the backtest."""
    if folder is not None:
        place = Path(folder)
        if place.exists() and not place.is_dir():
            raise InputError(f"got {place}, which is a file, expected a folder; name another")
        place.mkdir(parents=True, exist_ok=True)
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="bayeslat-") as name:
        yield Path(name)


def _write(target: Path, text: str) -> None:
    target.write_text(text, encoding="utf-8")
