"""Bayesian modelling of LLM-inference latency."""
