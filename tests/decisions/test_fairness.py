import numpy as np
import pytest
from by_steps import make_draws

from bayeslat.decisions.fairness import alone_ms, jain_index
from bayeslat.decisions.serving import StepOverhead, serve, step_times
from bayeslat.engine import EngineSettings, Workload

SETTINGS = EngineSettings(max_num_seqs=64, max_num_batched_tokens=2_048)


def test_jain_index_knows_its_ends():
    assert jain_index(np.full(7, 3.0)) == pytest.approx(1.0)
    assert jain_index(np.eye(8)[0]) == pytest.approx(1.0 / 8.0)
    assert np.isnan(jain_index(np.zeros(4)))
    assert jain_index(np.array([1.0, 2.0, 3.0])) == pytest.approx(36.0 / (3.0 * 14.0))
    many = np.random.default_rng(0).exponential(size=(3, 200_000))
    assert jain_index(many) == pytest.approx(np.full(3, 0.5), abs=0.01)  # E[x]^2 / E[x^2]


@pytest.mark.parametrize("gap", [StepOverhead(0.0), StepOverhead(1.5, 0.7)])
def test_alone_is_what_the_engine_takes_for_one_request_at_a_time(gap):
    draws = make_draws(4, sigma=0.0, extended=True)
    prompts, outputs = np.array([1, 7, 600, 2_048, 5_000]), np.array([30, 1, 12, 2, 5])
    apart = Workload(1e6 * np.arange(5), prompts, outputs)
    records = serve(draws, apart, SETTINGS, overhead=gap)
    times = step_times(draws, max_batch_size=64, max_total_tokens=SETTINGS.most_tokens(apart))
    found = alone_ms(apart, SETTINGS, times, overhead_ms=gap.draws(4))
    np.testing.assert_allclose(found, records.e2e_ms, rtol=1e-9)
