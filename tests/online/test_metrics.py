"""Metrics as Prometheus' own parser reads them."""

import socket
import urllib.request
from dataclasses import replace
from typing import Any

import pytest
from made_scores import scores
from prometheus_client.parser import text_string_to_metric_families
from stand_ins import CHIP, StandIn

from bayeslat.errors import InputError
from bayeslat.online.figures import figures
from bayeslat.online.metrics import Metrics
from bayeslat.online.monitor import Monitor


def state(n: int) -> StandIn:
    monitor = Monitor.empty().update(scores(n, 1)).counted(accepted=3, rejected=1)
    held = replace(StandIn().held, n_seen=n, version=3, level="warning", monitor=monitor)
    return StandIn(held=held, quarantine={"non-finite latency_ms": 5})


def samples(metrics: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(metrics.text()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


LABELS = dict(zip(CHIP._fields, map(str, CHIP), strict=True))


def test_figures_are_shown_under_their_names() -> None:
    metrics, held = Metrics(), state(500)
    metrics.update(held)
    found, monitor = samples(metrics), held.held.monitor
    expected: dict[str, Any] = {
        "rows_total": 500,
        "relative_error_mean_ratio": monitor.mean_error.value,
        "relative_error_p95_ratio": monitor.p95_error.value,
        "relative_error_p99_ratio": monitor.p99_error.value,
        "coverage_50_ratio": monitor.coverage_50.value,
        "coverage_90_ratio": monitor.coverage_90.value,
        "exceedance_p99_ratio": monitor.exceedance_p99.value,
        "log_score_mean": monitor.mean_log_score.value,
        "version": 3,
    }
    for name, value in expected.items():
        assert found[f"bayeslat_{name}"] == [(LABELS, value)]
    updates = {labels["result"]: value for labels, value in found["bayeslat_updates_total"]}
    assert updates == {"accepted": 3, "rejected": 1}
    levels = {labels["level"]: value for labels, value in found["bayeslat_level"]}
    assert levels == {"quiet": 0, "warning": 1, "drift": 0, "adapting": 0}
    verdicts = {labels["health"]: value for labels, value in found["bayeslat_health"]}
    assert verdicts == {"healthy": 1, "degraded": 0, "failing": 0, "too few rows": 0}
    assert found["bayeslat_unknown_rows_total"] == [({"name": "chip/other"}, 3)]
    assert found["bayeslat_refused_rows_total"] == [({"reason": "non-finite latency_ms"}, 5)]
    assert found["bayeslat_fleet_version"] == [({}, 3)]


def test_what_is_not_known_has_no_sample() -> None:
    metrics = Metrics()
    assert "bayeslat_rows_total" not in samples(metrics)
    metrics.update(StandIn())
    found = samples(metrics)
    assert found["bayeslat_rows_total"] == [(LABELS, 0)]
    assert "bayeslat_relative_error_mean_ratio" not in found


def test_the_latest_state_is_shown_once() -> None:
    metrics = Metrics()
    metrics.update(state(100))
    metrics.update(figures(state(300)))
    assert samples(metrics)["bayeslat_rows_total"] == [(LABELS, 300)]


def test_the_runner_counts() -> None:
    metrics = Metrics()
    for seconds in (0.003, 0.2, 3.0):
        metrics.took(seconds)
    metrics.waiting(rows=70, batches=2)
    metrics.worker(up=True)
    metrics.died()
    metrics.put_aside()
    found = samples(metrics)
    assert found["bayeslat_update_seconds_count"] == [({}, 3)]
    assert found["bayeslat_update_seconds_sum"][0][1] == pytest.approx(3.203)
    assert dict((x["le"], v) for x, v in found["bayeslat_update_seconds_bucket"])["0.25"] == 2
    assert found["bayeslat_waiting_rows"] == [({}, 70)]
    assert found["bayeslat_waiting_batches"] == [({}, 2)]
    assert found["bayeslat_worker_up"] == [({}, 1)]
    assert found["bayeslat_worker_deaths_total"] == [({}, 1)]
    assert found["bayeslat_batches_put_aside_total"] == [({}, 1)]


def test_each_has_a_registry_of_its_own() -> None:
    first, second = Metrics(), Metrics()
    first.died()
    assert samples(second)["bayeslat_worker_deaths_total"] == [({}, 0)]


def test_metrics_are_served_until_the_end() -> None:
    metrics = Metrics()
    metrics.update(state(100))
    server = metrics.serve(0)
    address = f"http://127.0.0.1:{server.port}/metrics"
    with urllib.request.urlopen(address, timeout=10.0) as answer:
        assert "bayeslat_rows_total" in answer.read().decode()
    server.close()
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=10.0)


def test_a_port_that_is_taken_gives_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"^got port {port} on 127.0.0.1") as found:
            Metrics().serve(port)
    assert "\n" not in str(found.value)
    with pytest.raises(InputError, match="got port 70000"):
        Metrics().serve(70000)
