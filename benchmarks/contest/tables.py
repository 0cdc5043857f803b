"""Scores of forecasts by deployment, and the tables that sum them up."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import pandas as pd

from contest.scores import p99_error, score_forecast
from contest.splits import EDGE_SETTINGS, Task, deployment_of
from contest.store import Kept

__all__ = ["OURS", "groups_of", "score_records", "split_table"]

OURS: Final = "bayeslat"

TITLES: Final = {
    "interpolation": "Interpolation: 30 % of the design points of every deployment held out",
    "extrapolation": "Extrapolation: known up to a quarter of the largest B and S, asked beyond",
    "device_setting": "Device setting: a share of a GPU's compute units that nobody measured",
    "gpu_left_out": "GPU left out: k steps known of each of its deployments",
    "physical_gpu_left_out": "GPU left out with all its shares: k steps known of each deployment",
    "llm_left_out": "LLM left out: k steps known of each of its deployments",
    "tail": "Tail: half of the decode steps of production-like logs held out",
}

SCORES: Final[dict[str, tuple[str, Callable[[float], str], float | None]]] = {
    "mape": ("MAPE, %", "{:.1f}".format, None),
    "coverage90": ("coverage of 90 %", "{:.2f}".format, 0.90),
    "exceedance99": ("above p99", "{:.3f}".format, 0.01),
    "pinball99": ("pinball p99, ms", "{:.2f}".format, None),
    "crps": ("CRPS, ms", "{:.2f}".format, None),
    "relative_crps": ("CRPS, % of mean", lambda value: f"{100.0 * value:.1f}", None),
    "p99_error": ("error of p99, %", "{:.1f}".format, None),
}
"""Column of the table, how a value is shown, and the nominal value where there is one."""


def score_records(task: Task, contender: str, kept: Kept) -> list[dict[str, Any]]:
    """Scores of every deployment of a task, with what the deployment is."""
    records, condition = [], _condition(task)
    seen, rows = set(task.train["engine"].unique()), task.test.groupby("deployment").indices
    for label, deployment in deployment_of(task.test).items():
        own, quantiles = task.test.iloc[rows[label]], kept.forecast[rows[label]]
        observed = own["latency_ms"].to_numpy()
        record = {
            "contender": contender,
            "task": task.name,
            "condition": condition,
            "deployment": label,
            "engine": deployment.engine,
            "tp": deployment.tp,
            "engine_seen": deployment.engine in seen,
            "rows": len(own),
            "task_seconds": kept.seconds,
            "max_rhat": kept.max_rhat,
            **score_forecast(observed, quantiles),
        }
        if task.split == "tail":
            record["p99_error"] = p99_error(observed, quantiles, own["batch_size"].to_numpy())
        records.append(record)
    return records


def _condition(task: Task) -> str:
    """What tells apart the columns of one split: the known steps, or the device setting."""
    if task.is_new and task.split != "device_setting":
        return f"k = {task.k}"
    return task.name if task.split == "device_setting" else ""


def groups_of(split: str, records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Records by group, empty groups left out; a deployment may be in several."""
    engine, tp, seen = records["engine"], records["tp"], records["engine_seen"]
    muxserve = engine == "muxserve"
    if split == "tail":
        masks = {"IBM logs": seen}
    elif split == "device_setting":
        edge = records["condition"].isin(EDGE_SETTINGS)
        masks = {"between measured shares": ~edge, "beyond measured shares": edge}
    elif split.endswith("left_out"):
        masks = {
            "clean sources (MuxServe, Splitwise)": engine.isin(["muxserve", "vllm"]) & seen,
            "production-like (IBM)": (engine == "tgis") & seen,
            "composed kernels": (engine == "vllm-0.19-kernels") & seen,
            "no other deployment with this engine": ~seen,
            "all": seen | ~seen,
        }
    else:
        masks = {
            "all": seen | ~seen,
            "MuxServe, tp 1": muxserve & (tp == 1),
            "MuxServe, tp 2": muxserve & (tp == 2),
            "MuxServe, tp 4 and 8": muxserve & (tp >= 4),
            "Splitwise": engine == "vllm",
            "IBM": engine == "tgis",
            "composed kernels": engine == "vllm-0.19-kernels",
        }
    found = {name: records[mask] for name, mask in masks.items() if mask.any()}
    if len(found) == 2:
        found.pop("all", None)  # it repeats the only other group
    return found


def split_table(split: str, records: pd.DataFrame, options: str = "") -> str:
    """All tables of one split, as Markdown.

    Parameters
    ----------
    split
        Its name.
    records
        From `score_records`; the order of the contenders is kept.
    options
        Of the command that made it, beside the split.
    """
    command = f"python benchmarks/accuracy.py --split {split}{options}"
    lines = [
        f"# {TITLES[split]}",
        "",
        f"Made by `{command}`.",
        "Every value is a median over deployments. The target is the nominal value, or the best",
        "rival's. CRPS is a sum over 13 levels, about 3 % too small for all alike.",
    ]
    rhat = records["max_rhat"].max()
    if rhat > 0:
        lines += ["", f"Largest R-hat of the draws behind bayeslat's forecasts: {rhat:.3f}."]
    for name, group in groups_of(split, records).items():
        lines += ["", f"## {name}", "", *_group_lines(group)]
    return "\n".join(lines) + "\n"


def _group_lines(group: pd.DataFrame) -> list[str]:
    conditions = list(dict.fromkeys(group["condition"]))
    shown = {name: score for name, score in SCORES.items() if name in group}
    n = group["deployment"].nunique()
    counted = f"{n} deployments" if n > 1 else "1 deployment"
    named = " / ".join(conditions)
    lines = [
        f"{counted}; cells: {named}." if named else f"{counted}.",
        "",
        "| contender | " + " | ".join(title for title, _, _ in shown.values()) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    medians = group.groupby(["contender", "condition"], sort=False)[list(shown)].median()
    for contender in dict.fromkeys(group["contender"]):
        own = medians.loc[contender].reindex(conditions)
        cells = [_cell(own[name], show) for name, (_, show, _) in shown.items()]
        lines.append(f"| {_bold(contender)} | " + " | ".join(cells) + " |")
    rivals = medians.drop(index=OURS, level="contender", errors="ignore")
    best = rivals.groupby("condition", sort=False).min().reindex(conditions)
    cells = [
        _cell(best[name], show) if nominal is None else show(nominal)
        for name, (_, show, nominal) in shown.items()
    ]
    return [*lines, "| target | " + " | ".join(cells) + " |"]


def _bold(contender: str) -> str:
    return f"**{contender}**" if contender == OURS else contender


def _cell(values: Iterable[float], show: Callable[[float], str]) -> str:
    return " / ".join("-" if np.isnan(value) else show(value) for value in values)
