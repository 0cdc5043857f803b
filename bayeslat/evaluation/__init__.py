"""Evidence: how well predictions met measured steps, beside what others would have predicted.

`backtest` holds steps of a log out and asks every contender for them. `diagnose` asks one posterior
everything that measured steps can tell of it, `compare_models` what a term or a likelihood is
worth, and `calibrate` whether the model recovers truths that it was simulated from.
"""

from bayeslat.evaluation.backtesting import Backtest, Failure, backtest
from bayeslat.evaluation.base import Contender, Fitted
from bayeslat.evaluation.calibration import CalibrationResult, Wrong, calibrate
from bayeslat.evaluation.comparison import (
    Comparison,
    compare_families,
    compare_models,
    compare_posteriors,
    compare_terms,
)
from bayeslat.evaluation.diagnosis import Diagnosis, diagnose
from bayeslat.evaluation.findings import Finding, Findings
from bayeslat.evaluation.left_out import RowChecks, check_rows
from bayeslat.evaluation.ours import Bayeslat
from bayeslat.evaluation.predictive_checks import Replicated, pit_tests, prior_check, replicate
from bayeslat.evaluation.prior_sensitivity import PriorSensitivity, prior_sensitivity
from bayeslat.evaluation.residuals import (
    quantile_residuals,
    relative_residuals,
    residual_tests,
)
from bayeslat.evaluation.rivals import RIVALS, ThroughputSaturationModel, all_rivals
from bayeslat.evaluation.scores import score_quantiles
from bayeslat.evaluation.sensitivity import SensitivityGrid, latency_slopes, sensitivity_grid
from bayeslat.evaluation.splits import Fold, SplitSettings, make_folds, thinned
from bayeslat.evaluation.tables import as_document, as_markdown, split_tables

__all__ = [
    "RIVALS",
    "Backtest",
    "Bayeslat",
    "CalibrationResult",
    "Comparison",
    "Contender",
    "Diagnosis",
    "Failure",
    "Finding",
    "Findings",
    "Fitted",
    "Fold",
    "PriorSensitivity",
    "Replicated",
    "RowChecks",
    "SensitivityGrid",
    "SplitSettings",
    "ThroughputSaturationModel",
    "Wrong",
    "all_rivals",
    "as_document",
    "as_markdown",
    "backtest",
    "calibrate",
    "check_rows",
    "compare_families",
    "compare_models",
    "compare_posteriors",
    "compare_terms",
    "diagnose",
    "latency_slopes",
    "make_folds",
    "pit_tests",
    "prior_check",
    "prior_sensitivity",
    "quantile_residuals",
    "relative_residuals",
    "replicate",
    "residual_tests",
    "score_quantiles",
    "sensitivity_grid",
    "split_tables",
    "thinned",
]
