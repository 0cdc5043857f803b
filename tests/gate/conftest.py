"""Gates that the tests share."""

import pytest
from mixtures import KINDS, mixture

from bayeslat.decisions.compiling import compile_gate

LIMITS = {"max_batch_size": 64, "max_total_tokens": 2048}


@pytest.fixture(scope="session", params=KINDS)
def compiled(request):
    """A mixture and its gate."""
    draws = mixture(request.param)
    return draws, compile_gate(draws, sla_ms=40.0, risk=0.05, **LIMITS)


@pytest.fixture(scope="session")
def gate():
    """One gate, where any will do."""
    return compile_gate(mixture("student_t"), sla_ms=40.0, risk=0.05, **LIMITS)
