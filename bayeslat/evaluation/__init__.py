"""Evidence: how well predictions met measured steps, beside what others would have predicted.

Start with `backtest`, which holds steps of a log out and asks every contender for them, or with the
diagnostics of one posterior: `residual_tests`, `pit_check`, `compare_models`, `calibrate`.
"""
