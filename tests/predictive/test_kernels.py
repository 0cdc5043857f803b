import numba
import numpy as np
import pytest

from bayeslat import saturation
from bayeslat.noise import FAMILIES, NOISE_FEATURES, noise_features
from bayeslat.predictive import kernels
from bayeslat.predictive.kernels import tail_table
from bayeslat.schema import PARAMETERS

Z = np.concatenate([np.linspace(0.0, 30.0, 3_001), np.geomspace(30.0, 1e8, 400)])


def read_table(table, z):
    """P(Z > z) of one draw, as the kernels read it."""
    nodes, place = table.reshape(-1), np.empty(1)
    result = np.empty(z.size)
    for i, value in enumerate(z):
        result[i] = kernels._evaluate(nodes, np.ones(1), np.zeros(1), value, place)[0]
    return result


def table_error(family: str, nu: float) -> float:
    z = np.concatenate([-Z, Z])
    read = read_table(tail_table(FAMILIES[family], np.array([nu])), z)
    return float(np.abs(read - FAMILIES[family].standard_sf(z, np.array(nu))).max())


@pytest.mark.parametrize("nu", [1.05, 1.2, 1.5, 2.0, 3.0, 4.5, 10.0, 30.0, 50.0, 200.0])
def test_table_of_student_t_keeps_its_error(nu):
    assert table_error("student_t", nu) < kernels.ERROR


@pytest.mark.parametrize("family", ["normal", "lognormal"])
def test_table_of_normal_families_keeps_its_error(family):
    assert table_error(family, np.inf) < kernels.ERROR


@pytest.mark.parametrize("nu", [1.2, 1.6, 5.0, 200.0])
def test_table_never_rises(nu):
    table = tail_table(FAMILIES["student_t"], np.array([nu]))
    far = np.geomspace(2_000.0, 1e12, 4_000)
    z = np.concatenate([-far[::-1], np.linspace(-2_000.0, 2_000.0, 40_001), far])
    read = read_table(table, z)
    assert (np.diff(read) <= 1e-15).all()
    assert (read >= 0.0).all() and (read <= 1.0).all()


@pytest.mark.parametrize(("family", "nu"), [("student_t", 1.2), ("student_t", 5.0), ("normal", 0)])
def test_density_is_that_of_the_noise(family, nu):
    noise, shape = FAMILIES[family], np.array([nu or np.inf])
    nodes, place = tail_table(noise, shape).reshape(-1), np.empty(1)
    z = np.linspace(-40.0, 40.0, 801)
    slope, offset = np.array([3.0]), np.array([0.5])
    read = [kernels._evaluate(nodes, slope, offset, (v + 0.5) / 3.0, place)[1] for v in z]
    np.testing.assert_allclose(read, 3.0 * noise.standard_pdf(z, shape), rtol=0.0, atol=1e-5)


def test_no_number_stays_no_number():
    table = tail_table(FAMILIES["student_t"], np.array([3.0]))
    assert np.isnan(read_table(table, np.array([np.nan]))).all()
    ends = read_table(table, np.array([-np.inf, np.inf]))
    np.testing.assert_allclose(ends, [1.0, 0.0], rtol=0.0, atol=1e-15)


def elementwise(function):
    """A scalar kernel as a function of arrays, compiled as the rows are."""

    @numba.njit(error_model="numpy", fastmath={"contract"})
    def apply(x):
        out = np.empty_like(x)
        for i in range(x.size):
            out[i] = function(x[i])
        return out

    return apply


@pytest.mark.parametrize(
    ("function", "reference", "x"),
    [
        (kernels._exp, np.exp, np.linspace(-690.0, 690.0, 40_001)),
        (kernels._exp, np.exp, np.linspace(-2.0, 2.0, 40_001)),
        (kernels._expm1, np.expm1, np.linspace(-690.0, 690.0, 40_001)),
        (kernels._expm1, np.expm1, np.concatenate([s * np.geomspace(1e-300, 3, 9_999)
                                                   for s in (-1.0, 1.0)])),
        (kernels._log, np.log, np.geomspace(1e-300, 1e300, 40_001)),
        (kernels._log, np.log, np.linspace(0.5, 2.0, 40_001)),
    ],
)  # fmt: skip
def test_written_down_functions_are_numpys(function, reference, x):
    np.testing.assert_allclose(elementwise(function)(x), reference(x), rtol=1e-15, atol=1e-300)


def test_exponential_saturates_and_never_overflows():
    x = np.array([-np.inf, -1e300, 1e300, np.inf])
    bound = np.exp(700.0)
    np.testing.assert_allclose(elementwise(kernels._exp)(x) / bound, [0, 0, 1, 1], atol=1e-300)
    np.testing.assert_array_equal(elementwise(kernels._expm1)(x[:2]), -1.0)


def test_rows_stand_in_the_order_of_the_schema():
    assert [kernels.__dict__[name.upper()] for name in PARAMETERS] == list(range(len(PARAMETERS)))
    assert kernels.LOG_K_S == len(PARAMETERS)


def random_columns(rng, n, *, sharp):
    typical = dict.fromkeys(PARAMETERS, 1.0) | {
        "P_max": 30.0, "k_B": 0.2, "k_S": 0.01, "w_0": 20.0, "tau_0": 5.0, "tau_B": 0.05,
        "tau_S": 0.002, "tau_C": 1e-5, "gamma_B": 1e-3, "gamma_S": 1e-5,
    }  # fmt: skip
    parameters = {name: value * rng.lognormal(0.0, 0.4, n) for name, value in typical.items()}
    if not sharp:
        parameters["m_S"] = np.ones(n)
    logs = [np.log(parameters[name]) for name in ("k_S", "r_F", "r_B")]
    slopes = rng.normal(0.0, [0.3, 0.1, 0.1], size=(n, len(NOISE_FEATURES)))
    sigma, scale = 0.1 * rng.random(n), 0.2 * rng.random(n)
    rows = [*parameters.values(), *logs, *slopes.T, sigma, scale]
    return parameters, slopes, sigma, scale, np.stack(rows)


@pytest.mark.parametrize("sharp", [False, True])
def test_locations_are_the_formula_times_the_discrepancy(sharp):
    rng = np.random.default_rng(4)
    n = 2 * kernels.TILE + 37
    parameters, slopes, sigma, scale, columns = random_columns(rng, n, sharp=sharp)
    batch = np.array([1.0, 1.0, 16.0, 37.0, 256.0, 3.0])
    tokens = np.array([1.0, 4_096.0, 16.0, 512.0, 8_192.0, 4.0])
    context, averaged = rng.uniform(0.0, 1e6, 6), np.array([1.0, 1.0, 4.0, 0.5, 100.0, 7.0])
    missing, features = rng.random(6), rng.normal(size=(6, 5))
    weights = 0.2 * rng.normal(size=(5, n))
    of_noise = noise_features(batch, tokens)
    steps = np.stack([batch, tokens, context, averaged, missing, *of_noise.T])
    mu, relative = kernels.locate(
        kernels.tiled(columns), kernels.tiled(weights), n, sharp, steps, features
    )
    table = {name: values[:, None] for name, values in parameters.items()}
    formula = saturation.latency(table, batch, tokens, context)
    np.testing.assert_allclose(mu.T, formula * np.exp(weights.T @ features.T), rtol=1e-13)
    noise = np.square(sigma[:, None] * np.exp(slopes @ of_noise.T)) / averaged
    exact = np.sqrt(noise + missing * scale[:, None] ** 2)
    np.testing.assert_allclose(relative.T, exact, rtol=1e-13)


def test_a_sharp_knee_of_one_is_the_plain_formula():
    rng = np.random.default_rng(5)
    *_, columns = random_columns(rng, 20, sharp=False)
    steps = np.array([[1.0, 4.0, 64.0], [1.0, 900.0, 70.0], [0.0] * 3, [1.0] * 3, [0.0] * 3])
    draws = kernels.tiled(columns), kernels.tiled(np.empty((0, 20))), 20
    plain = kernels.locate(*draws, False, steps, np.empty((3, 0)))[0]
    sharp = kernels.locate(*draws, True, steps, np.empty((3, 0)))[0]
    np.testing.assert_allclose(sharp, plain, rtol=1e-13)


@pytest.mark.parametrize("k_s", [1e-300, 1e-12, 1e12, 1e300])
@pytest.mark.parametrize("m_s", [0.1, 1.0, 200.0])
def test_extreme_knees_are_the_formula(k_s, m_s):
    parameters = dict.fromkeys(PARAMETERS, 1.0) | {"k_S": k_s, "m_S": m_s}
    logs = [np.log(parameters[name]) for name in ("k_S", "r_F", "r_B")]
    columns = np.array([[value] for value in (*parameters.values(), *logs, 0.0, 0.1, 0.0)])
    steps = np.array([[3.0], [7.0], [0.0], [1.0], [0.0]])
    draws = kernels.tiled(columns), kernels.tiled(np.empty((0, 1))), 1
    mu, _ = kernels.locate(*draws, True, steps, np.empty((1, 0)))
    assert mu[0, 0] == pytest.approx(saturation.latency(parameters, 3.0, 7.0), rel=1e-12)
