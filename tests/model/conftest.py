"""Steps that the tests of the model share."""

import numpy as np
import pandas as pd
import pytest

import bayeslat as bl


@pytest.fixture(scope="module")
def steps(tiny_steps) -> bl.Observations:
    """The tiny steps, some of them averages, some at one design point but not in one context.

    Some are of a setting of the device, and some of an engine on two devices.
    """
    table = tiny_steps.to_frame()
    rng = np.random.default_rng(0)
    twins = table.sample(20, random_state=1)
    twins["context_tokens"] *= 2.0
    setting, layout = table.sample(30, random_state=2), table.sample(30, random_state=3)
    setting["gpu"] += "@60%"
    layout = layout.assign(tp=2, engine="vllm")
    table = pd.concat([table, twins, setting, layout], ignore_index=True)
    table["n_averaged"] = rng.choice([1, 4, 10], size=len(table))
    return bl.validate_steps(table, source="tiny fleet", check_floor=False)
