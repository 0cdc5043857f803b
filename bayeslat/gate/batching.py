"""Building the next step of an engine under a gate: decodes first, prompts with what is left.

The token count and the context accumulate over all that has been chosen, so that P(latency > SLA)
is that of the whole step. Requests that decode come first; where they do not all fit, those run
that have waited longest, so that none starves: of n requests each runs at least every n-th step.
Prompts follow by priority and then in the order given, each with the largest chunk that still fits.
What can never fit, not even in a step of its own, is reported and not tried again and again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from bayeslat.errors import InputError
from bayeslat.gate.base import StepGate

__all__ = ["Decode", "Prompt", "StepPlan", "TokenBudget", "build_step", "exhaustive_step"]


@dataclass(frozen=True)
class Decode:
    """A request that computes one token in a step.

    Parameters
    ----------
    name : str
        The engine's name of the request.
    context_tokens : int
        KV positions that its next token attends to, itself included.
    steps_waited : int
        Steps since it ran last.
    """

    name: str
    context_tokens: int
    steps_waited: int = 0


@dataclass(frozen=True)
class Prompt:
    """A request whose prompt is not yet computed, or not whole.

    Parameters
    ----------
    name : str
        The engine's name of the request.
    tokens : int
        Tokens of the prompt that are left to compute.
    computed_tokens : int
        Positions already in the KV cache.
    priority : int
        The higher, the earlier it is served.
    """

    name: str
    tokens: int
    computed_tokens: int = 0
    priority: int = 0


@dataclass(frozen=True)
class StepPlan:
    """What the next step computes.

    Parameters
    ----------
    decodes : tuple of str
        Requests that compute one token.
    chunks : tuple of (str, int)
        Prompts with the tokens that they compute.
    postponed : tuple of str
        Requests that decode and have to wait for a later step.
    impossible : tuple of str
        Requests that no step within the risk can ever hold; the caller has to reject them, or to
        serve them knowingly. One that decodes runs nevertheless when its turn has come, alone.
    batch_size, total_tokens, context_tokens : int
        B, S and C of the step.
    p_exceed : float
        P(latency > SLA); zero for a step without any request.
    within_risk : bool
        Whether the gate admits the step. It does not where a single request is run because none
        would fit.
    """

    decodes: tuple[str, ...]
    chunks: tuple[tuple[str, int], ...]
    postponed: tuple[str, ...]
    impossible: tuple[str, ...]
    batch_size: int
    total_tokens: int
    context_tokens: int
    p_exceed: float
    within_risk: bool


def build_step(
    gate: StepGate,
    decodes: Sequence[Decode],
    prompts: Sequence[Prompt] = (),
    *,
    max_batch_size: int | None = None,
    max_total_tokens: int | None = None,
    chunked: bool = True,
) -> StepPlan:
    """Choose what the next step computes.

    Parameters
    ----------
    gate : StepGate
        What a step may be.
    decodes, prompts : sequence
        The requests; prompts in the order of their arrival.
    max_batch_size, max_total_tokens : int, optional
        Bounds of the engine beside those of the gate.
    chunked : bool
        Whether a prompt may be spread over steps.

    Returns
    -------
    StepPlan
        Without any request where none is given, or none of the prompts fits.

    Raises
    ------
    InputError
        Two requests of one name, a request without tokens, a context below the tokens it holds, or
        bounds below one.
    """
    _check(decodes, prompts, max_batch_size, max_total_tokens)
    most_requests = min(max_batch_size or gate.max_batch_size, gate.max_batch_size)
    most_tokens = min(max_total_tokens or gate.max_total_tokens, gate.max_total_tokens)
    never = [one.name for one in decodes if not _ever_runs(gate, 1, one.context_tokens)]
    never += [one.name for one in prompts if not _ever_fits(gate, one, most_tokens, chunked)]
    waiting = sorted(decodes, key=lambda one: -one.steps_waited)
    n, within = _leading(gate, waiting, min(most_requests, most_tokens))
    step = _Step(n, n, sum(one.context_tokens for one in waiting[:n]))
    chunks = []
    if within:
        for one in sorted(prompts, key=lambda one: -one.priority):
            if one.name in never or step.batch == most_requests:
                continue
            tokens = _chunk(gate, step, one, most_tokens - step.tokens, chunked)
            if tokens:
                step = step.plus(one, tokens)
                chunks.append((one.name, tokens))
    return StepPlan(
        tuple(one.name for one in waiting[:n]),
        tuple(chunks),
        tuple(one.name for one in waiting[n:]),
        tuple(never),
        step.batch,
        step.tokens,
        step.context,
        float(gate.p_exceed(step.batch, step.tokens, step.context)) if step.batch else 0.0,
        within,
    )


@dataclass(frozen=True)
class TokenBudget:
    """Tokens that the next step may hold, for engines which have a scheduler of their own.

    A scheduler that fills each step up to a constant, as ``max_num_batched_tokens`` of vLLM, asks
    for that number before every step instead.

    Parameters
    ----------
    gate : StepGate
        What a step may be.
    most : int
        The engine's own constant.
    """

    gate: StepGate
    most: int

    def __call__(
        self, n_decodes: int, context_tokens: int, *, n_prompts: int = 1, prompt_context: int = 0
    ) -> int:
        """Tokens of the next step, decodes included.

        Parameters
        ----------
        n_decodes : int
            Requests that decode.
        context_tokens : int
            Positions that they attend to, their new tokens included.
        n_prompts : int
            Prompts that may share what is left, at most; each is a request more.
        prompt_context : int
            Positions already computed of the prompts that would be continued.

        Returns
        -------
        int
            Such that the step is within the risk whether one prompt or all share it, if the decodes
            alone are. `n_decodes` where no prompt can join, so that it is 0 where nothing decodes
            and nothing fits: the engine then has to reject the prompt, or to run it knowingly. A
            budget cannot say which decodes should wait.
        """
        if n_prompts == 0:
            return n_decodes
        batches = n_decodes + np.arange(1, n_prompts + 1)
        budget = self.most
        for n in batches.tolist():
            own = context_tokens + prompt_context + n - n_decodes
            more = self.gate.max_more_tokens(n, n, own)
            if more is None:
                return n_decodes
            budget = min(budget, n + more)
        # However many prompts share it: fewer make a step of other kernels, not a lighter one.
        positions = context_tokens + prompt_context + budget - n_decodes
        joining = batches[batches <= budget]
        safe = joining.size > 0 and bool(np.all(self.gate.fits(joining, budget, positions)))
        return max(n_decodes, budget) if safe else n_decodes


def exhaustive_step(
    gate: StepGate,
    decodes: Sequence[Decode],
    prompts: Sequence[Prompt],
    *,
    limit: int = 200_000,
) -> dict[str, int]:
    """The chunks that compute most tokens, by trying all: a reference for small cases.

    Parameters
    ----------
    gate, decodes, prompts
        As in `build_step`; all decodes take part.
    limit : int
        Most combinations to try.

    Returns
    -------
    dict of str to int
        Tokens of each prompt, zero included: most tokens of the highest priority, among those most
        of the next, and so on.

    Raises
    ------
    InputError
        More combinations than `limit`.
    """
    n_combinations = int(np.prod([one.tokens + 1.0 for one in prompts]))
    if n_combinations > limit:
        raise InputError(
            f"got {n_combinations} combinations of chunks, expected at most {limit}; ask about"
            " fewer or shorter prompts, or use build_step"
        )
    classes = sorted({one.priority for one in prompts}, reverse=True)
    best, chosen = (-1,) * len(classes), dict.fromkeys((one.name for one in prompts), 0)
    start = _Step(len(decodes), len(decodes), sum(one.context_tokens for one in decodes))
    for tokens in product(*(range(one.tokens + 1) for one in prompts)):
        step = start
        for one, n in zip(prompts, tokens, strict=True):
            step = step.plus(one, n) if n else step
        computed = [(one.priority, n) for one, n in zip(prompts, tokens, strict=True)]
        value = tuple(sum(n for priority, n in computed if priority == c) for c in classes)
        if value > best and (step.batch == 0 or step.fits(gate)):
            best, chosen = value, {one.name: n for one, n in zip(prompts, tokens, strict=True)}
    return chosen


@dataclass(frozen=True)
class _Step:
    """B, S and C of what has been chosen."""

    batch: int
    tokens: int
    context: int

    def plus(self, prompt: Prompt, tokens: int) -> "_Step":
        """The step with a chunk more."""
        positions = prompt.computed_tokens + tokens
        return _Step(self.batch + 1, self.tokens + tokens, self.context + positions)

    def fits(self, gate: StepGate) -> bool:
        """Whether the gate admits it."""
        return bool(gate.fits(self.batch, self.tokens, self.context))


def _leading(gate: StepGate, waiting: Sequence[Decode], most: int) -> tuple[int, bool]:
    """How many of the first requests run, and whether the gate admits that."""
    contexts = np.cumsum([one.context_tokens for one in waiting], dtype=float)
    n = min(len(waiting), most)
    while n > 0 and not gate.fits(n, n, float(contexts[n - 1])):
        n -= 1
    if n == 0 and waiting:
        return 1, False
    return n, True


def _chunk(gate: StepGate, step: _Step, prompt: Prompt, left: int, chunked: bool) -> int:
    """Tokens of a prompt that fit into the step beside what is there; none is zero."""
    most = min(prompt.tokens, left)
    if most < 1 or (not chunked and most < prompt.tokens):
        return 0
    if step.plus(prompt, most).fits(gate):
        return most
    if not chunked:
        return 0
    one = step.plus(prompt, 1)
    more = gate.max_more_tokens(one.batch, one.tokens, one.context)
    if more is None:
        return 0
    if more < most:
        return 1 + more
    # Latency is not monotone here: more tokens would fit than there are, and these do not.
    tokens = np.arange(1, most)
    fitting = gate.fits(one.batch, step.tokens + tokens, one.context - 1 + tokens)
    return int(tokens[fitting][-1]) if fitting.any() else 0


def _ever_fits(gate: StepGate, prompt: Prompt, most_tokens: int, chunked: bool) -> bool:
    """Whether any steps compute the prompt to its end within the risk."""
    end = prompt.computed_tokens + prompt.tokens
    if not chunked:
        return prompt.tokens <= most_tokens and _ever_runs(gate, prompt.tokens, end)
    # The last chunk attends to most; it may be as short as one token.
    return _ever_runs(gate, 1, end)


def _ever_runs(gate: StepGate, tokens: int, context: int) -> bool:
    """Whether a request of so many tokens fits into any step, alone or beside others.

    Where latency falls with the batch, it may fit among others though it does not alone.
    """
    if gate.fits(1, tokens, context):
        return True
    others = np.arange(1, min(gate.max_batch_size, gate.max_total_tokens - tokens + 1))
    return bool(np.any(gate.fits(1 + others, tokens + others, context + others)))


def _check(
    decodes: Sequence[Decode],
    prompts: Sequence[Prompt],
    max_batch_size: int | None,
    max_total_tokens: int | None,
) -> None:
    names = [one.name for one in decodes] + [one.name for one in prompts]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(
            f"got two requests named {twice!r}, expected a name for each; a request either decodes"
            " or waits"
        )
    for decode in decodes:
        if decode.context_tokens < 1:
            raise InputError(
                f"got request {decode.name!r} with context_tokens={decode.context_tokens}, expected"
                " at least 1: its next token attends to itself"
            )
    for prompt in prompts:
        if prompt.tokens < 1 or prompt.computed_tokens < 0:
            raise InputError(
                f"got request {prompt.name!r} with tokens={prompt.tokens} and"
                f" computed_tokens={prompt.computed_tokens}, expected at least one token to compute"
                " and no negative number; drop requests that are done"
            )
    for name, bound in (("max_batch_size", max_batch_size), ("max_total_tokens", max_total_tokens)):
        if bound is not None and bound < 1:
            raise InputError(
                f"got {name}={bound}, expected at least 1; leave it out for the gate's"
            )
