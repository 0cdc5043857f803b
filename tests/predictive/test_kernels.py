import numpy as np
import pytest

from bayeslat.noise import FAMILIES
from bayeslat.predictive import kernels
from bayeslat.predictive.kernels import _tail, tail_table

Z = np.concatenate([np.linspace(0.0, 30.0, 3_001), np.geomspace(30.0, 1e8, 400)])


def table_error(family: str, nu: float) -> float:
    table = tail_table(FAMILIES[family], np.array([nu]))[0]
    z = np.concatenate([-Z, Z])
    read = np.array([_tail(table, nu, value) for value in z])
    return float(np.abs(read - FAMILIES[family].standard_sf(z, np.array(nu))).max())


@pytest.mark.parametrize("nu", [1.05, 1.2, 1.5, 2.0, 3.0, 4.5, 10.0, 30.0, 50.0, 200.0])
def test_table_of_student_t_keeps_its_error(nu):
    assert table_error("student_t", nu) < kernels.ERROR


@pytest.mark.parametrize("family", ["normal", "lognormal"])
def test_table_of_normal_families_keeps_its_error(family):
    assert table_error(family, np.inf) < kernels.ERROR


def test_table_never_rises():
    table = tail_table(FAMILIES["student_t"], np.array([1.2]))[0]
    read = np.array([_tail(table, 1.2, z) for z in np.linspace(-2_000.0, 2_000.0, 40_001)])
    assert (np.diff(read) <= 1e-15).all()
