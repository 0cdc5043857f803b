"""Every rival keeps the protocol, whatever steps it is given."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from small_rivals import SMALL, first_of_each, halves, mape, rows_where, small_rival

from bayeslat.errors import InputError
from bayeslat.evaluation.rivals import RIVALS, all_rivals, missing, packages
from bayeslat.observations import Observations

LEVELS = (0.005, 0.05, 0.3, 0.5, 0.9, 0.99, 0.999)
MEDIAN = LEVELS.index(0.5)
N_FEW = 7
ROWS = 30
"""Steps of every deployment."""


@dataclass(frozen=True, eq=False)
class Case:
    """What a rival is given; `error` is the largest median error, in per cent, that makes sense."""

    known: Observations
    few: Observations | None
    test: Observations
    error: float = np.inf


def unheard(steps: Observations) -> Observations:
    """The same steps of deployments that nobody has heard of."""
    names = [
        each._replace(gpu=f"unheard-{number}", model="nobody's", engine="brand new")
        for number, each in enumerate(steps.deployments)
    ]
    return replace(steps, deployments=tuple(names))


def recorded(steps: Observations, share: float) -> Observations:
    """Steps of which only a share has a recorded context."""
    has = np.random.default_rng(0).random(len(steps)) < share
    return replace(steps, context_tokens=np.where(has, steps.context_tokens, np.nan))


def constant(steps: Observations, **values: float) -> Observations:
    return replace(steps, **{name: np.full(len(steps), value) for name, value in values.items()})


def left_out(fleet: Observations, gpu: str) -> tuple[Observations, Observations]:
    """Steps on the other GPUs, and on this one."""
    out = rows_where(fleet, lambda each: each.gpu == gpu)
    return fleet.select(~out), fleet.select(out)


def few_of(new: Observations) -> tuple[Observations, Observations]:
    """Some steps of every deployment, and the others."""
    few = np.arange(len(new)) % ROWS < N_FEW
    return new.select(few), new.select(~few)


def with_llm_left_out(fleet: Observations) -> Case:
    out = rows_where(fleet, lambda each: each.model == "llama-13b")
    return Case(fleet.select(~out), None, fleet.select(out), error=80)


def with_gpu_left_out(
    fleet: Observations,
    gpu: str = "H100-80GB",
    *,
    few: bool = False,
    named: Callable[[Observations], Observations] = lambda steps: steps,
    error: float = 150,
) -> Case:
    rest, new = left_out(fleet, gpu)
    known, asked = few_of(named(new)) if few else (None, named(new))
    return Case(rest, known, asked, error)


def with_one_known(fleet: Observations, n: int, *, few: bool = False) -> Case:
    one = fleet.for_deployment(fleet.deployments[0])
    rest = left_out(fleet, one.deployments[0].gpu)[1 if few else 0]
    known, asked = few_of(rest.select(rows_where(rest, lambda each: each != one.deployments[0])))
    return Case(one.select(np.arange(n)), known if few else None, asked)


CASES: dict[str, Callable[[Observations], Case]] = {
    "known": lambda fleet: Case(*(halves(fleet)[0], None, halves(fleet)[1]), error=45),
    "new GPU": with_gpu_left_out,
    "new GPU, few steps": lambda fleet: with_gpu_left_out(fleet, few=True),
    "new share": lambda fleet: with_gpu_left_out(fleet, "A100-80GB@80%"),
    "new share, few steps": lambda fleet: with_gpu_left_out(fleet, "A100-80GB@80%", few=True),
    "new LLM": with_llm_left_out,
    "known and new": lambda fleet: Case(left_out(fleet, "H100-80GB")[0], None, fleet),
    "one deployment": lambda fleet: with_one_known(fleet, ROWS),
    "one deployment, few steps": lambda fleet: with_one_known(fleet, ROWS, few=True),
    "three steps": lambda fleet: with_one_known(fleet, 3),
    "one step": lambda fleet: with_one_known(fleet, 1),
    "a few steps of each": lambda fleet: Case(first_of_each(fleet, 3), None, fleet),
    "constant B": lambda fleet: Case(constant(fleet, batch_size=1.0), None, fleet),
    "constant S": lambda fleet: Case(constant(fleet, total_tokens=4096.0), None, fleet),
    "one latency": lambda fleet: Case(constant(fleet, latency_ms=20.0), None, fleet),
    "no contexts": lambda fleet: Case(
        *(recorded(halves(fleet)[0], 0), None, recorded(halves(fleet)[1], 0)), error=60
    ),
    "some contexts": lambda fleet: Case(
        *(recorded(halves(fleet)[0], 0.5), None, recorded(halves(fleet)[1], 0.5)), error=60
    ),
    "unheard of": lambda fleet: with_gpu_left_out(fleet, named=unheard, error=np.inf),
    "unheard of, few steps": lambda fleet: with_gpu_left_out(
        fleet, few=True, named=unheard, error=np.inf
    ),
    "all unheard of": lambda fleet: Case(unheard(halves(fleet)[0]), None, fleet),
    "nothing asked": lambda fleet: Case(fleet, None, fleet.select([])),
}


def quantiles(slug: str, case: Case, test: Observations) -> np.ndarray:
    return small_rival(slug).fit(case.known, case.few).predict_quantiles(test, LEVELS)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("slug", RIVALS)
def test_quantiles_are_positive_ordered_and_of_about_the_right_size(
    slug: str, kind: str, rival_fleet: Observations
) -> None:
    case = CASES[kind](rival_fleet)
    blind = constant(case.test, latency_ms=np.nan)
    found = quantiles(slug, case, blind)
    assert found.shape == (len(case.test), len(LEVELS))
    assert np.isfinite(found).all() and (found > 0.0).all()
    assert (np.diff(found, axis=1) >= 0.0).all()
    # Ten terms of the quadratic and fifteen steps a deployment: it may be anywhere.
    if slug != "quadratic" and np.isfinite(case.error):
        assert mape(case.test, found[:, MEDIAN]) < case.error


@pytest.mark.parametrize("kind", ["known", "new GPU, few steps"])
@pytest.mark.parametrize("slug", RIVALS)
def test_no_forecast_depends_on_the_latencies_to_predict_or_on_chance(
    slug: str, kind: str, rival_fleet: Observations
) -> None:
    case = CASES[kind](rival_fleet)
    found = quantiles(slug, case, case.test)
    assert np.array_equal(found, quantiles(slug, case, constant(case.test, latency_ms=np.nan)))


@pytest.mark.parametrize("slug", RIVALS)
def test_a_step_is_predicted_alike_in_any_company(slug: str, rival_fleet: Observations) -> None:
    known, test = halves(rival_fleet)
    fitted = small_rival(slug).fit(known)
    some = np.arange(0, len(test), 3)
    together = fitted.predict_quantiles(test, LEVELS)[some]
    alone = fitted.predict_quantiles(test.select(some), LEVELS)
    assert alone == pytest.approx(together, rel=1e-6)


@pytest.mark.parametrize("slug", RIVALS)
def test_new_deployments_come_nearer_by_their_few_steps(
    slug: str, rival_fleet: Observations
) -> None:
    case = with_gpu_left_out(rival_fleet, few=True)
    assert case.few is not None
    slow = [replace(part, latency_ms=5 * part.latency_ms) for part in (case.few, case.test)]
    without = Case(case.known, None, slow[1])
    errors = [
        mape(slow[1], quantiles(slug, each, slow[1])[:, MEDIAN])
        for each in (without, replace(without, few=slow[0]))
    ]
    # Efficiencies of an engine hardly move by a few steps of one GPU, and the others' trees little.
    least = {"roofline-datasheet": 1.05, "lightgbm": 1.0, "xgboost": 1.0, "random-forest": 1.0}
    assert errors[1] < least.get(slug, 0.8) * errors[0]


@pytest.mark.parametrize("slug", RIVALS)
def test_a_rival_goes_to_another_process(slug: str, rival_fleet: Observations) -> None:
    known, test = halves(rival_fleet)
    there = pickle.loads(pickle.dumps(small_rival(slug)))
    expected = quantiles(slug, Case(known, None, test), test)
    assert np.array_equal(there.fit(known).predict_quantiles(test, LEVELS), expected)


@pytest.mark.parametrize("slug", RIVALS)
def test_nothing_to_learn_from_is_one_clear_line(slug: str, rival_fleet: Observations) -> None:
    with pytest.raises(InputError, match="got no known steps"):
        small_rival(slug).fit(rival_fleet.select([]), rival_fleet)


def test_every_rival_has_a_name_of_its_own_and_a_version() -> None:
    rivals = all_rivals()
    assert len(rivals) == len(RIVALS) == len({rival.name for rival in rivals})
    assert all(rival.version for rival in rivals)
    assert set(SMALL) < set(RIVALS)
    assert [rival.name for rival in all_rivals(["table", "linear"])] == ["table", "linear"]


def test_a_name_that_no_rival_has_is_refused() -> None:
    for call in (lambda: all_rivals(["linear", "oracle"]), lambda: missing("oracle")):
        with pytest.raises(InputError, match="got rival 'oracle', expected one of linear"):
            call()


def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, rival_fleet: Observations
) -> None:
    assert all(missing(slug) is None for slug in RIVALS)
    monkeypatch.setattr(packages, "find_spec", lambda module: None)
    needing = {slug: missing(slug) for slug in RIVALS if missing(slug) is not None}
    assert needing == {
        "bayesian-ridge": "scikit-learn",
        "random-forest": "scikit-learn",
        "lightgbm": "lightgbm",
        "xgboost": "xgboost",
        "boosted-residual": "lightgbm",
    }
    for slug, package in needing.items():
        with pytest.raises(InputError, match=f"got no {package}, expected .*bayeslat.rivals"):
            small_rival(slug).fit(rival_fleet)
