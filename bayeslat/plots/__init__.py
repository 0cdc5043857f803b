"""Pictures of a posterior. They draw what other modules computed, and compute nothing."""

from bayeslat.plots.adaptation import plot_adaptation
from bayeslat.plots.backtest import plot_backtest
from bayeslat.plots.capacity import plot_contours, plot_frontier, plot_tenant_front
from bayeslat.plots.diagnostics import (
    plot_comparison,
    plot_pit_bands,
    plot_replicated,
    plot_residuals,
    plot_sensitivity,
)
from bayeslat.plots.fit import plot_fit, plot_pit
from bayeslat.plots.newcomers import plot_cold_start
from bayeslat.plots.next_points import plot_next_points
from bayeslat.plots.parameters import plot_parameters
from bayeslat.plots.phases import plot_chunks, plot_phases
from bayeslat.plots.prior import plot_prior_predictive
from bayeslat.plots.scheduling import plot_schedulers
from bayeslat.plots.serving import plot_disaggregation, plot_load_curve, plot_policies
from bayeslat.plots.sla import plot_exceedance
from bayeslat.plots.style import MAX_PANELS, is_simulated

__all__ = [
    "MAX_PANELS",
    "is_simulated",
    "plot_adaptation",
    "plot_backtest",
    "plot_chunks",
    "plot_cold_start",
    "plot_comparison",
    "plot_contours",
    "plot_disaggregation",
    "plot_exceedance",
    "plot_fit",
    "plot_frontier",
    "plot_load_curve",
    "plot_next_points",
    "plot_parameters",
    "plot_phases",
    "plot_pit",
    "plot_pit_bands",
    "plot_policies",
    "plot_prior_predictive",
    "plot_replicated",
    "plot_residuals",
    "plot_schedulers",
    "plot_sensitivity",
    "plot_tenant_front",
]
