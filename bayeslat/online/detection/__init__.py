"""Noticing that a predictive is no longer true.

`DETECTORS` has them by name. All hold settings alone, take blocks of scores, and admit a stated
rate of false alarms; they differ in what they can tell:

| name | what it is | slower, faster | tails | wrong from the first row |
|---|---|---|---|---|
| `e-process` | bets that are valid at every look | yes | yes | yes |
| `ks` | Kolmogorov-Smirnov, recent rows against those before | yes | yes | yes |
| `mann-whitney` | Mann-Whitney, recent rows against those before | yes | yes | yes |
| `page-hinkley` | two-sided CUSUM of normal scores | yes | no | no |
| `adwin` | window of adapting length | yes | yes | no |

All look at how a row's error ranks among earlier errors of its load level, so that a shift of the
workload alone does not look like drift.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from bayeslat.online.detection.adaptive_window import AdaptiveWindow
from bayeslat.online.detection.base import Detector, Level, Verdict
from bayeslat.online.detection.eprocess import EProcess
from bayeslat.online.detection.page_hinkley import PageHinkleyTest
from bayeslat.online.detection.windowed import WindowedTest, kolmogorov_smirnov, mann_whitney
from bayeslat.online.settings import OnlineSettings

__all__ = ["DETECTORS", "Detector", "Level", "Verdict"]


def _e_process(settings: OnlineSettings) -> Detector:
    return EProcess(settings.false_alarms, settings.tolerance, settings.seed)


def _ks(settings: OnlineSettings) -> Detector:
    of = settings.false_alarms, settings.tolerance, settings.seed
    return WindowedTest("ks", kolmogorov_smirnov, *of)


def _mann_whitney(settings: OnlineSettings) -> Detector:
    of = settings.false_alarms, settings.tolerance, settings.seed
    return WindowedTest("mann-whitney", mann_whitney, *of)


def _page_hinkley(settings: OnlineSettings) -> Detector:
    return PageHinkleyTest(settings.false_alarms, settings.seed)


def _adwin(settings: OnlineSettings) -> Detector:
    return AdaptiveWindow(settings.false_alarms, settings.seed)


DETECTORS: Final[Mapping[str, Callable[[OnlineSettings], Detector]]] = MappingProxyType(
    {
        "e-process": _e_process,
        "ks": _ks,
        "mann-whitney": _mann_whitney,
        "page-hinkley": _page_hinkley,
        "adwin": _adwin,
    }
)
"""Makers of detectors, by name."""
