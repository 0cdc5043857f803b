"""A simulated fleet with known truth, and simulated steps of the formula for recovery tests."""

from bayeslat.simulate.fleet import SimulatedFleet, simulate_fleet
from bayeslat.simulate.formula import simulate_from_formula

__all__ = ["SimulatedFleet", "simulate_fleet", "simulate_from_formula"]
