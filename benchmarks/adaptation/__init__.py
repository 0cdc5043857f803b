"""Posteriors and trackers followed through simulated and recorded changes of the latency law."""
