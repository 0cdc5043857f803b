"""Figures as Prometheus metrics: read them as text or serve them to a scraper."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import start_http_server
from prometheus_client.registry import Collector

from bayeslat.errors import InputError
from bayeslat.online.figures import DeploymentFigures, Figures, figures
from bayeslat.schema import DEPLOYMENT_COLUMNS

__all__ = ["Metrics", "Server"]

LEVELS: Final = ("quiet", "warning", "drift", "adapting")
VERDICTS: Final = ("healthy", "degraded", "failing", "too few rows")

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Bounds of the histogram of update times."""

GAUGES: Final = {
    "relative_error_mean_ratio": ("mean_error", "Mean relative error of the last rows"),
    "relative_error_p95_ratio": ("p95_error", "95 % quantile of the relative error"),
    "relative_error_p99_ratio": ("p99_error", "99 % quantile of the relative error"),
    "coverage_50_ratio": ("coverage_50", "Share of rows in the central 50 % interval"),
    "coverage_90_ratio": ("coverage_90", "Share of rows in the central 90 % interval"),
    "exceedance_p99_ratio": ("exceedance_p99", "Share of rows above the predicted p99"),
    "log_score_mean": ("mean_log_score", "Mean log predictive density, in 1/ms"),
}
"""Gauges of a deployment: the attribute of its figures, and what it says."""


class Server:
    """An HTTP server that a scraper asks; made by `Metrics.serve`."""

    def __init__(self, server: Any, thread: Thread) -> None:
        self.port = int(server.server_port)
        self._server = server
        self._thread = thread

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(eq=False)
class _Shown(Collector):
    """The latest figures as families; counters take their values from the state itself."""

    held: Figures | None = None

    def describe(self) -> Iterable[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        if self.held is not None:
            yield from _families(self.held)


class Metrics:
    """Metrics of one runner or state, in a registry of their own.

    Names begin with ``bayeslat_``. Those of a deployment carry the labels gpu, model, tp, engine
    and precision. A figure that is not known yet, such as the error before any row, has no sample.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._shown = _Shown()
        self.registry.register(self._shown)
        self._seconds = self._made(
            Histogram, "update_seconds", "Seconds that a batch took to take in", buckets=SECONDS
        )
        self._rows = self._made(Gauge, "waiting_rows", "Acknowledged rows that wait")
        self._batches = self._made(Gauge, "waiting_batches", "Acknowledged batches that wait")
        self._up = self._made(Gauge, "worker_up", "Whether the worker process runs")
        self._died = self._made(Counter, "worker_deaths", "Worker processes that died")
        self._aside = self._made(Counter, "batches_put_aside", "Batches put aside")

    def _made[M](self, kind: type[M], name: str, text: str, **options: Any) -> M:
        return kind(f"bayeslat_{name}", text, registry=self.registry, **options)  # type: ignore[call-arg]

    def update(self, state: Any) -> None:
        """Show a state.

        Parameters
        ----------
        state : OnlineState or Figures
            What is to be shown from now on.
        """
        self._shown.held = state if isinstance(state, Figures) else figures(state)

    def took(self, seconds: float) -> None:
        """Count the time that a batch took."""
        self._seconds.observe(seconds)

    def waiting(self, *, rows: int, batches: int) -> None:
        """Show what waits."""
        self._rows.set(rows)
        self._batches.set(batches)

    def worker(self, *, up: bool) -> None:
        """Show whether the worker runs."""
        self._up.set(up)

    def died(self) -> None:
        """Count a worker that died."""
        self._died.inc()

    def put_aside(self) -> None:
        """Count a batch that was put aside."""
        self._aside.inc()

    def text(self) -> str:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry).decode()

    def serve(self, port: int, *, address: str = "127.0.0.1") -> Server:
        """Serve the metrics over HTTP until the server is closed.

        Parameters
        ----------
        port : int
            Port, or 0 for any that is free.
        address : str
            Where to listen; only this machine by default.

        Raises
        ------
        InputError
            The port is taken, or not allowed.
        """
        try:
            return Server(*start_http_server(port, address, self.registry))
        except (OSError, OverflowError) as fault:
            raise InputError(
                f"got port {port} on {address}, which cannot be listened on"
                f" ({getattr(fault, 'strerror', None) or fault}), expected a free port; choose"
                " another, or 0 for any"
            ) from fault


def _families(shown: Figures) -> Iterator[Any]:
    labels = [tuple(map(str, each.deployment)) for each in shown.deployments]
    pairs = list(zip(labels, shown.deployments, strict=True))
    yield _family(
        CounterMetricFamily, "rows", "Rows seen", [(at, each.n_seen) for at, each in pairs]
    )
    for name, (attribute, text) in GAUGES.items():
        values = [(at, getattr(each, attribute).value) for at, each in pairs]
        yield _family(GaugeMetricFamily, name, text, values)
    yield _family(
        GaugeMetricFamily,
        "version",
        "Version of the posterior in force",
        [(at, each.version) for at, each in pairs],
    )
    yield _family(
        CounterMetricFamily,
        "updates",
        "Updates, by what became of them",
        [
            ((*at, result), getattr(each, result))
            for at, each in pairs
            for result in ("accepted", "rejected")
        ],
        "result",
    )
    yield _one_of(pairs, "level", "What the detector says", LEVELS, lambda each: each.level)
    yield _one_of(
        pairs, "health", "Verdict on the predictions", VERDICTS, lambda each: each.health.verdict
    )
    yield GaugeMetricFamily("bayeslat_fleet_version", "Swaps of any posterior", shown.version)
    yield _counts("unknown_rows", "Rows of deployments not in the fleet", "name", shown.unknown)
    yield _counts("refused_rows", "Rows that were refused", "reason", shown.quarantine)


def _family(
    kind: Any, name: str, text: str, values: Sequence[tuple[tuple[str, ...], float]], *more: str
) -> Any:
    found = kind(f"bayeslat_{name}", text, labels=(*DEPLOYMENT_COLUMNS, *more))
    for labels, value in values:
        if not np.isnan(value):
            found.add_metric(labels, value)
    return found


def _one_of(
    pairs: Sequence[tuple[tuple[str, ...], DeploymentFigures]],
    name: str,
    text: str,
    states: tuple[str, ...],
    of: Any,
) -> Any:
    """A state as Prometheus shows one: a series for each value, of which one is 1."""
    values = [((*at, state), float(of(each) == state)) for at, each in pairs for state in states]
    return _family(GaugeMetricFamily, name, text, values, name)


def _counts(name: str, text: str, label: str, counts: Any) -> Any:
    found = CounterMetricFamily(f"bayeslat_{name}", text, labels=(label,))
    for key, count in counts.items():
        found.add_metric((str(key),), count)
    return found
