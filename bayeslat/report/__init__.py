"""One self-contained HTML page about a posterior: may it be relied on, what it says, its limits."""

from bayeslat.report.agreement import ColdStart
from bayeslat.report.page import write_report
from bayeslat.report.reliance import Finding, Level, Reliance

__all__ = [
    "ColdStart",
    "Finding",
    "Level",
    "Reliance",
    "write_report",
]
