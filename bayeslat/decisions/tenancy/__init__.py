"""Tenants that share engine steps under an SLA: allocations, and what fairness costs."""

from bayeslat.decisions.tenancy.files import read_tenants
from bayeslat.decisions.tenancy.front import SharedStep, TenantFront, pareto_front, shared_step
from bayeslat.decisions.tenancy.tenants import Allocation, Tenant, allocate

__all__ = [
    "Allocation",
    "SharedStep",
    "Tenant",
    "TenantFront",
    "allocate",
    "pareto_front",
    "read_tenants",
    "shared_step",
]
