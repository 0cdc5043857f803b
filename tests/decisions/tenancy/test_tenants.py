import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from exact_gate import ExactGate, random_draws

from bayeslat.decisions import Tenant, allocate, pareto_front, read_tenants, shared_step
from bayeslat.decisions.tenancy import sharing
from bayeslat.decisions.tenancy.alpha_fair import utility_tables
from bayeslat.decisions.tenancy.context_limits import Box, ContextLimits
from bayeslat.decisions.tenancy.sharing import neighbours
from bayeslat.decisions.tenancy.tenants import sharing_of
from bayeslat.decisions.throughput import step_rates
from bayeslat.errors import InputError
from bayeslat.predictive.draws import Points

SEEDS = range(12)
ALPHAS = (0.0, 0.5, 1.0, 2.0, 4.0, 16.0)
CHAT = Tenant("chat", 1, 800, 6)
BATCH = Tenant("batch", 100, 100, 6)
RAG = Tenant("rag", 16, 3000, 6)


class ClosedForm:
    """P(T > SLA) is 0 or 1, from T = 5 + 0.1 S + 0.001 C + 0.2 B in milliseconds."""

    risk, max_batch_size, max_total_tokens = 0.01, 64, 4096

    def __init__(self, sla_ms):
        self.sla_ms = sla_ms

    def p_exceed(self, b, s, c):
        return 1.0 * (5.0 + 0.1 * np.asarray(s) + 0.001 * np.asarray(c) + 0.2 * b > self.sla_ms)

    def fits(self, b, s, c):
        return self.p_exceed(b, s, c) <= self.risk


def instance(seed):
    """Three tenants with up to six requests each, and a gate of a posterior."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice([1, 1, 7, 16, 64, 100, 256], 3)
    tenants = [
        Tenant(
            name,
            int(s),
            int(s + rng.integers(0, 3000)),
            int(rng.integers(1, 7)),
            weight=float(rng.choice([0.5, 1.0, 2.0, 3.0])),
            max_share=float(rng.uniform(0.4, 0.9)) if rng.random() < 0.2 else 1.0,
        )
        for name, s in zip("abc", sizes, strict=True)
    ]
    draws = random_draws(seed)
    return tenants, draws, ExactGate(draws, float(rng.uniform(20.0, 90.0)))


def sums(requests, tenants):
    s, c = (
        np.array([getattr(t, f"{kind}_per_request") for t in tenants])
        for kind in ("tokens", "context")
    )
    return requests.sum(-1), requests @ s, requests @ c


def every_allocation(tenants, gate):
    """All allocations that the gate lets through and that keep quotas and shares, by loops."""
    kept = []
    for one in itertools.product(*(range(t.min_requests, t.max_requests + 1) for t in tenants)):
        total = sum(n * t.tokens_per_request for n, t in zip(one, tenants, strict=True))
        shares = [
            n * t.tokens_per_request <= t.max_share * total
            for n, t in zip(one, tenants, strict=True)
        ]
        if sum(one) and all(shares):
            kept.append(one)
    found = np.array(kept, dtype=float).reshape(-1, len(tenants))
    if len(found) == 0:
        return found
    return found[np.asarray(gate.fits(*sums(found, tenants)))]


def merit(one, tenants, alpha):
    """Tenants with service, where that counts, and the utility of those who have some."""
    served = [
        (t.weight, n * t.tokens_per_request / t.weight)
        for n, t in zip(one, tenants, strict=True)
        if n or alpha < 1.0
    ]
    if alpha == 1.0:
        utility = sum(w * np.log(u) for w, u in served)
    else:
        utility = sum(w * u ** (1.0 - alpha) / (1.0 - alpha) for w, u in served)
    return (len(served) if alpha >= 1.0 else 0, utility)


@pytest.mark.parametrize("seed", SEEDS)
def test_allocations_are_as_good_as_the_best_of_all(seed):
    tenants, _, gate = instance(seed)
    every = every_allocation(tenants, gate)
    for alpha in ALPHAS:
        if len(every) == 0:
            with pytest.raises(InputError):
                allocate(gate, tenants, alpha=alpha)
            continue
        best = max(merit(one, tenants, alpha) for one in every)
        found = allocate(gate, tenants, alpha=alpha)
        assert any((every == found.requests).all(axis=1)), "allowed"
        count, utility = merit(found.requests, tenants, alpha)
        assert count == best[0]
        assert utility == pytest.approx(best[1], rel=1e-12)
        assert found.gap == pytest.approx(0.0, abs=1e-6)


def test_most_instances_of_the_comparison_have_allocations_and_limits():
    sizes = [len(every_allocation(tenants, gate)) for tenants, _, gate in map(instance, SEEDS)]
    assert sum(size > 3 for size in sizes) >= 6
    bound = [
        len(every_allocation(t, g)) < np.prod([1 + x.max_requests for x in t]) - 1
        for t, _, g in map(instance, SEEDS)
    ]
    assert sum(bound) >= 6, "the SLA binds"


def test_branch_and_bound_alone_finds_and_proves_the_optimum(monkeypatch):
    monkeypatch.setattr(sharing, "_greedy", lambda *_: None)
    monkeypatch.setattr(sharing, "_climb", lambda _s, _t, requests: requests)
    for seed in SEEDS:
        tenants, _, gate = instance(seed)
        every = every_allocation(tenants, gate)
        for alpha in (0.0, 1.0, 2.0) if len(every) else ():
            found = allocate(gate, tenants, alpha=alpha)
            best = max(merit(one, tenants, alpha) for one in every)
            # Programs end within their tolerances, a millionth of the range of all utilities.
            assert merit(found.requests, tenants, alpha) == pytest.approx(best, rel=1e-4)


def test_a_larger_instance_is_proved_and_no_neighbour_is_better():
    tenants = [Tenant("a", 1, 900, 40), Tenant("b", 1, 300, 30, weight=2.0), Tenant("c", 64, 64, 9),
               Tenant("d", 16, 2000, 12), Tenant("e", 128, 500, 5)]  # fmt: skip
    gate = ClosedForm(60.0)
    for alpha in (0.0, 1.0, 4.0):
        found = allocate(gate, tenants, alpha=alpha)
        own = merit(found.requests, tenants, alpha)
        assert found.gap == pytest.approx(0.0, abs=1e-6)
        assert gate.fits(found.batch_size, found.total_tokens, found.context_tokens)
        near = neighbours(sharing_of(tenants, gate), np.array(found.requests))
        assert all(merit(one, tenants, alpha) <= own for one in near.tolist())


def test_a_search_that_ends_early_tells_its_gap():
    tenants = [Tenant("a", 1, 900, 40), Tenant("b", 3, 300, 30), Tenant("c", 64, 64, 9)]
    gate = ClosedForm(40.0)
    found = allocate(gate, tenants, alpha=0.5, max_programs=1)
    best = allocate(gate, tenants, alpha=0.5)
    assert found.gap > 0.0
    mine, full = (merit(one.requests, tenants, 0.5)[1] for one in (found, best))
    assert full <= mine * (1.0 + found.gap) * (1.0 + 1e-9)


def test_alpha_goes_from_throughput_to_max_min():
    gate = ClosedForm(30.0)
    most = allocate(gate, [CHAT, BATCH], alpha=0.0)
    assert most.requests[1] == 2, "25 ms are 2 requests of 10 ms, and little else"
    fair = allocate(gate, [CHAT, BATCH], alpha=16.0)
    assert fair.requests[0] > most.requests[0]
    assert fair.jain > most.jain


def test_weights_pull_service_towards_a_tenant():
    light = [Tenant("x", 10, 10, 50), Tenant("y", 10, 10, 50)]
    heavy = [Tenant("x", 10, 10, 50, weight=3.0), Tenant("y", 10, 10, 50)]
    equal, pulled = (allocate(ClosedForm(60.0), who, alpha=1.0).requests for who in (light, heavy))
    assert abs(equal[0] - equal[1]) <= 1
    assert pulled[0] == pytest.approx(3 * pulled[1], abs=3)


def test_a_higher_priority_is_served_first_and_quotas_before_it():
    first = Tenant("first", 50, 50, 10, priority=1)
    rest = Tenant("rest", 50, 50, 10)
    gate = ClosedForm(36.0)  # six requests
    assert allocate(gate, [rest, first], alpha=1.0).requests == (0, 5)
    kept = Tenant("rest", 50, 50, 10, min_requests=2)
    assert allocate(gate, [kept, first], alpha=1.0).requests == (2, 3)
    few = Tenant("first", 50, 50, 2, priority=1)
    assert allocate(gate, [rest, few], alpha=1.0).requests == (3, 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_priorities_are_lexicographic(seed):
    tenants, _, gate = instance(seed)
    tenants = [
        replace(tenant, priority=priority, max_share=1.0)
        for tenant, priority in zip(tenants, (0, 2, 2), strict=True)
    ]
    every = every_allocation(tenants, gate)
    above = every[every[:, 0] == 0] if len(every) else every
    if len(above) == 0:
        return
    found = allocate(gate, tenants, alpha=1.0)
    best = max(merit(one[1:], tenants[1:], 1.0) for one in above)
    assert merit(found.requests[1:], tenants[1:], 1.0) == pytest.approx(best, rel=1e-12)
    rest = every[(every[:, 1:] == found.requests[1:]).all(axis=1)]
    assert found.requests[0] == rest[:, 0].max()


def test_shares_are_kept():
    limited = Tenant("batch", 100, 100, 6, max_share=0.5)
    found = allocate(ClosedForm(60.0), [RAG, limited], alpha=0.0)
    assert found.tokens[1] <= 0.5 * found.total_tokens
    free = allocate(ClosedForm(60.0), [RAG, BATCH], alpha=0.0)
    assert free.tokens[1] > 0.5 * free.total_tokens


@pytest.mark.parametrize("seed", range(1, 7))
def test_the_front_is_that_of_all_allocations(seed):
    tenants, draws, gate = instance(seed)
    every = every_allocation(tenants, gate)
    if len(every) == 0:
        return
    rates = step_rates(draws, Points(*sums(every, tenants))).mean(axis=0)
    own = every * [t.tokens_per_request / t.weight for t in tenants]
    jain = own.sum(1) ** 2 / (3 * (own**2).sum(1))
    front = pareto_front(draws, gate, tenants, max_points=1000)
    found = np.array([(s.tokens_per_s.value, s.allocation.jain) for s in front.steps])
    for rate, fairness in zip(rates, jain, strict=True):
        # Nothing lies beyond the front by more than a thousandth in both respects.
        beyond = np.maximum(rate / found[:, 0], fairness / found[:, 1])
        assert beyond.min() <= 1.001
    assert (np.diff(found[:, 0]) < 0.0).all()
    assert (np.diff(found[:, 1]) > 0.0).all()
    for step in front.steps:
        assert any((every == step.allocation.requests).all(axis=1))


def test_a_front_says_what_is_to_be_expected_of_each_step():
    draws = random_draws(1)
    tenants = [CHAT, BATCH, RAG]
    gate = ExactGate(draws, 40.0)
    front = pareto_front(draws, gate, tenants, max_points=3)
    assert len(front.steps) <= 3 < front.n_found
    table = front.table()
    whole = pareto_front(draws, gate, tenants, max_points=500).table()
    assert table["tokens_per_s"].iloc[[0, -1]].tolist() == (
        whole["tokens_per_s"].iloc[[0, -1]].tolist()
    )
    for step, (_, row) in zip(front.steps, table.iterrows(), strict=True):
        own = step.allocation
        at = own.batch_size, own.total_tokens, own.context_tokens
        assert step.p_exceeds.value == pytest.approx(gate.p_exceed(*at), rel=1e-9)
        rates = step_rates(draws, Points(*(np.array([float(v)]) for v in at)))
        assert row["tokens_per_s"] == pytest.approx(rates.mean())
        assert row["tokens_per_s_lower"] <= row["tokens_per_s"] <= row["tokens_per_s_upper"]
        assert row["requests chat"] + row["requests batch"] + row["requests rag"] == at[0]
        assert row["tokens batch"] == 100 * row["requests batch"]
        assert shared_step(draws, gate, own) == step


def test_lines_above_the_context_are_broken_by_no_step_that_fits():
    for seed in SEEDS:
        draws = random_draws(seed)
        gate = ExactGate(draws, 60.0)
        limits = ContextLimits(lambda b, s, c, gate=gate: gate.fits(b, s, c), 0, 40_000)
        box = Box((1, 40), (1, 600), (0, 40_000))
        above = limits.above(box)
        if above is None:
            continue
        trimmed, lines = above
        rng = np.random.default_rng(seed)
        b, s = rng.integers(1, 41, 400), rng.integers(1, 601, 400)
        most = limits.largest(b, s)
        fit = most >= 0
        assert (s[fit] >= trimmed.tokens[0]).all()
        assert (s[fit] <= trimmed.tokens[1]).all()
        for line in lines:
            assert (most[fit] <= line.value + line.slope * (s[fit] - line.tokens) + 1e-6).all()
        inside = fit & (most > 0) & (most < 40_000)
        assert np.asarray(gate.fits(b[inside], s[inside], most[inside])).all()
        assert not np.asarray(gate.fits(b[inside], s[inside], most[inside] + 1)).any()


def test_utility_tables_are_concave_and_put_service_before_all_else():
    for alpha in ALPHAS:
        tables = utility_tables([1, 64, 300], [1.0, 0.5, 3.0], [50, 9, 4], alpha)
        for table in tables:
            assert (np.diff(table) > 0.0).all()
            assert (np.diff(table, n=2) <= 1e-12 * np.abs(table[1:-1])).all()
        if alpha >= 1.0:
            best = sum(table[-1] for table in tables)
            without = [best - table[-1] + table[0] for table in tables]
            assert max(without) < sum(table[1] for table in tables)


@pytest.mark.parametrize(
    ("values", "about"),
    [
        ({"name": " "}, "name"),
        ({"tokens_per_request": 0}, "tokens_per_request"),
        ({"context_per_request": -1}, "context_per_request"),
        ({"max_requests": 1.5}, "max_requests"),
        ({"min_requests": 7}, "min_requests"),
        ({"weight": 0.0}, "weight"),
        ({"max_share": 1.2}, "max_share"),
    ],
)
def test_bad_tenants_are_one_line(values, about):
    good = {"name": "a", "tokens_per_request": 1, "context_per_request": 9, "max_requests": 6}
    with pytest.raises(InputError, match=about):
        Tenant(**(good | values))


def test_questions_without_an_answer_say_why():
    gate = ClosedForm(30.0)
    with pytest.raises(InputError, match="no tenants"):
        allocate(gate, [])
    with pytest.raises(InputError, match="more than one tenant named chat"):
        allocate(gate, [CHAT, CHAT])
    with pytest.raises(InputError, match="below the floor"):
        allocate(ClosedForm(5.0), [CHAT, BATCH])
    with pytest.raises(InputError, match="alpha"):
        allocate(gate, [CHAT], alpha=-1.0)
    with pytest.raises(InputError, match="max_share of chat"):
        allocate(gate, [Tenant("chat", 1, 800, 6, max_share=0.5)])
    with pytest.raises(InputError, match="no alphas"):
        pareto_front(random_draws(1), gate, [CHAT], alphas=[])


def test_quotas_that_cannot_be_kept_say_which_must_give():
    greedy = Tenant("batch", 100, 100, 6, min_requests=4)
    small = Tenant("chat", 1, 800, 6, min_requests=1)
    with pytest.raises(InputError, match="lower batch to 2, or allow"):
        allocate(ClosedForm(30.0), [greedy, small])
    with pytest.raises(InputError, match="lower several of them"):
        allocate(ClosedForm(30.0), [greedy, Tenant("x", 100, 100, 6, min_requests=4)])


def test_tenants_come_from_csv_and_json(tmp_path):
    table = tmp_path / "tenants.csv"
    table.write_text(
        "name,tokens_per_request,context_per_request,max_requests,weight,max_share\n"
        "chat,1,800,6,2.5,\nbatch, 100,100,6,,0.5\n",
        encoding="utf-8",
    )
    expected = (
        Tenant("chat", 1, 800, 6, weight=2.5),
        Tenant("batch", 100, 100, 6, max_share=0.5),
    )
    assert read_tenants(table) == expected
    listed = tmp_path / "tenants.json"
    rows = [
        {"name": "chat", "tokens_per_request": 1, "context_per_request": 800, "max_requests": 6,
         "weight": 2.5, "max_share": None},
        {"name": "batch", "tokens_per_request": 100, "context_per_request": 100, "max_requests": 6,
         "max_share": 0.5},
    ]  # fmt: skip
    listed.write_text(json.dumps(rows), encoding="utf-8")
    assert read_tenants(listed) == expected


HEAD = "name,tokens_per_request,context_per_request,max_requests"


@pytest.mark.parametrize(
    ("name", "content", "about"),
    [
        ("t.csv", "", "cannot be read"),
        ("t.csv", HEAD + "\n", "no tenants"),
        ("t.csv", "name,max_requests\na,3\n", "without tokens_per_request"),
        ("t.csv", HEAD + ",colour\na,1,2,3,red\n", "with colour"),
        ("t.csv", HEAD + "\na,1.5,2,3\n", "whole number"),
        ("t.csv", HEAD + "\na,many,2,3\n", "tokens_per_request='many'"),
        ("t.csv", HEAD + "\na,1,2,inf\n", "whole number"),
        ("t.csv", HEAD + "\na,1,2,3\na,1,2,3\n", "more than one"),
        ("t.json", "{", "cannot be read"),
        ("t.json", "{}", "list of objects"),
        ("t.json", "[1]", "list of objects"),
        ("t.json", "[]", "no tenants"),
    ],
)
def test_bad_files_of_tenants_are_one_line(tmp_path, name, content, about):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=about):
        read_tenants(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_tenants(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("alpha", [4.0, 8.0, 16.0, 32.0])
def test_no_tenant_could_have_more_at_no_cost_to_another(alpha):
    """A small tenant that has all it wants hides the gains of large ones from the utility."""
    small = Tenant("small", 1, 100, 2)
    gate = ClosedForm(60.0)
    tenants = [small, Tenant("b", 16, 300, 30), Tenant("c", 16, 300, 30)]
    found = allocate(gate, tenants, alpha=alpha)
    assert found.requests[0] == 2
    assert abs(found.requests[1] - found.requests[2]) <= 1
    for i in range(3):
        more = np.array(found.requests) + np.eye(3, dtype=int)[i]
        within = more[i] <= tenants[i].max_requests
        tokens = [tenant.tokens_per_request for tenant in tenants]
        context = [tenant.context_per_request for tenant in tenants]
        assert not (within and gate.fits(more.sum(), more @ tokens, more @ context))


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"weight": 1e-300}, "weight"),
        ({"weight": 1e300}, "weight"),
        ({"tokens_per_request": 10**300}, "expected at most"),
        ({"context_per_request": 5 * 10**18}, "expected at most"),
    ],
)
def test_numbers_that_no_tenant_has_are_refused(change, about):
    with pytest.raises(InputError, match=about):
        Tenant(**{"name": "a", "tokens_per_request": 1, "context_per_request": 1,
                  "max_requests": 5} | change)  # fmt: skip
