"""What a rival has learnt from: known steps, the few of new deployments, and who is new."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from bayeslat.errors import InputError
from bayeslat.evaluation.base import Array
from bayeslat.observations import Observations, concat
from bayeslat.schema import Deployment

__all__ = ["KNOWN", "N_FOLDS", "History", "Novelty", "folds"]

COUNTS: Final = (0, 1, 2, 5, 10, 20, 50)
"""Numbers of steps of a new deployment with which errors of known ones are rehearsed."""

N_FOLDS: Final = 5
"""Parts that take turns in being left out, where a rival learns how large its errors are."""


class Novelty(NamedTuple):
    """How a deployment is new: by its ``gpu`` or else its ``model``, with how many steps known.

    The shares of one device are different GPUs here. To rehearse a new device by leaving others out
    with all their shares makes newcomers with a few steps worse, where most known deployments are
    on one device: what is then left says little. The number is rounded down to one of `COUNTS`.
    """

    by: str
    n_few: int = 0


KNOWN: Final = Novelty("")
"""The novelty of a deployment that is not new."""


@dataclass(frozen=True, eq=False)
class History:
    """Steps to learn from, their contexts complete.

    A context that is not recorded is taken to be as long, for each request, as the median of the
    deployment's recorded ones; where it has none as of the other deployments, else as zero.

    Attributes
    ----------
    known
        Steps of deployments with plenty of them.
    few
        Steps of other deployments; may be empty.
    context_per_request
        Median C / B of the deployments that record contexts.
    """

    known: Observations
    few: Observations
    context_per_request: Mapping[Deployment, float]

    @classmethod
    def of(cls, known: Observations, few: Observations | None) -> Self:
        """History with the contexts filled in.

        Raises
        ------
        InputError
            There is no known step.
        """
        if not len(known):
            raise InputError(
                "got no known steps, expected steps of at least one deployment to learn from; "
                "leave fewer steps out"
            )
        few = known.select([]) if few is None else few
        bare = cls(known, few, _context_per_request(concat(known, few)))
        return replace(bare, known=bare.filled(known), few=bare.filled(few))

    def filled(self, steps: Observations) -> Observations:
        """Steps with every context known."""
        typical = list(self.context_per_request.values())
        elsewhere = float(np.median(typical)) if typical else 0.0
        lengths = [self.context_per_request.get(each, elsewhere) for each in steps.deployments]
        assumed = np.array(lengths, dtype=float)[steps.deployment_index] * steps.batch_size
        context = np.where(np.isnan(steps.context_tokens), assumed, steps.context_tokens)
        return replace(steps, context_tokens=context)

    def everything(self) -> Observations:
        """All steps, known and few."""
        return concat(self.known, self.few)

    def few_of(self, deployment: Deployment) -> Observations:
        """The few steps of a new deployment; may be empty."""
        if deployment not in self.few.deployments:
            return self.few.select([])
        return self.few.for_deployment(deployment)

    def novelty(self, deployment: Deployment) -> Novelty:
        """How a deployment is new."""
        if deployment in self.known.deployments:
            return KNOWN
        known_gpus = {each.gpu for each in self.known.deployments}
        n_few = max(count for count in COUNTS if count <= len(self.few_of(deployment)))
        return Novelty("model" if deployment.gpu in known_gpus else "gpu", n_few)

    def split(self, steps: Observations) -> dict[Novelty, NDArray[np.int64]]:
        """Rows of the steps of every novelty."""
        novelty = [self.novelty(deployment) for deployment in steps.deployments]
        found = {}
        for each in sorted(set(novelty)):
            own = np.array([other == each for other in novelty])
            found[each] = np.flatnonzero(own[steps.deployment_index])
        return found


def _context_per_request(steps: Observations) -> dict[Deployment, float]:
    ratio = steps.context_tokens / steps.batch_size
    found = {}
    for deployment in steps.deployments:
        own = ratio[steps.slice_of(deployment)]
        if np.isfinite(own).any():
            found[deployment] = float(np.median(own[np.isfinite(own)]))
    return found


def folds(steps: Observations) -> NDArray[np.int64]:
    """Fold of each step, 0 to 4, at random; repeats of a design point stay together."""
    _, phase = np.unique(steps.phase.astype(str), return_inverse=True)
    columns: tuple[Array | NDArray[np.int64], ...] = (
        steps.deployment_index,
        steps.batch_size,
        steps.total_tokens,
        steps.context_tokens,
        phase,
    )
    points, point = np.unique(np.column_stack(columns), axis=0, return_inverse=True)
    rng = np.random.default_rng(0)
    return rng.permutation(np.arange(len(points)) % N_FOLDS)[point]
