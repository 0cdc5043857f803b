import numpy as np
import pandas as pd
import pytest

import bayeslat as bl
from bayeslat.inference.fit import spec_for


def steps(*kinds: str) -> bl.Observations:
    """A deployment for each kind: decodes, alone or with prefills of one kind beside them."""
    size = {"decode": (4, 4), "prefill": (4, 400), "mixed": (4, 400)}
    context = {"decode": 4_000, "prefill": 400, "mixed": 9_000}
    rows = [
        {
            "gpu": f"gpu-{number}", "model": "llm", "batch_size": size[row][0],
            "total_tokens": size[row][1], "context_tokens": context[row], "latency_ms": 20.0,
        }
        for number, kind in enumerate(kinds)
        for row in ("decode", kind)
    ]  # fmt: skip
    return bl.validate_steps(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("kinds", "kept", "kept_if_asked"),
    [
        (("mixed", "mixed"), True, True),
        (("mixed", "prefill"), True, True),
        (("mixed", "prefill", "decode"), False, True),
        (("prefill", "prefill"), False, False),
    ],
)
def test_context_beside_prefills_counts_where_half_of_the_deployments_tell_it(
    kinds, kept, kept_if_asked
):
    seen = steps(*kinds)
    assert ("r_C" in spec_for(seen, None).terms) == kept
    assert ("r_C" in spec_for(seen, bl.ModelSpec()).terms) == kept_if_asked


def test_terms_that_no_row_tells_are_left_out():
    assert spec_for(steps("decode"), None).terms == ("tau_B", "tau_C")
    unknown = steps("mixed").to_frame().assign(context_tokens=np.nan)
    assert spec_for(bl.validate_steps(unknown), None).terms == ("tau_B", "r_F", "r_B")
