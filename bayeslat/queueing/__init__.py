"""Queues as plain array functions: what waiting adds to the time of a service.

Numbers or numpy arrays in, broadcast against each other; floats or arrays out. Functions know no
unit: times are in any unit, rates per that unit, and all arguments of a call use the same one.
"Wait" is from arrival to the start of service, "sojourn" to its end; arrivals are Poisson and the
order is first come first served where nothing else is said.

Which one when:

==============================================  ===================================  ==============
question                                        functions                            answer
==============================================  ===================================  ==============
exponential service, one or several servers     ``mmc_*``                            exact
any service, one server: mean and variance      `mg1_mean_wait`,                     exact
                                                `mg1_wait_variance`
any service, one server: P(wait > t), p99       `mg1_wait_tail`, `mg1_sojourn_tail`  two bounds
service by its Laplace-Stieltjes transform      ``mg1_*_by_inversion``               to about 1e-8
arrivals that are not Poisson                   `gg1_mean_wait_bound`                upper bound
the same, closer                                `gg1_mean_wait_approximation`        approximation
any service, several servers                    `mgc_mean_wait_approximation`        approximation
classes of priority                             `nonpreemptive_mean_waits`,          exact
                                                `preemptive_mean_sojourns`
batches: means, batch sizes, queue lengths      `bulk_queue`                         exact (cut at
                                                                                     1e-13)
batches: how fast the tail falls                `bulk_queue_decay`,                  exact exponent
                                                `bulk_wait_decay`
overflow to a second, slower server             ``fallback_*``, `largest_cut`        bound, under an
                                                                                     assumption
whether that assumption costs the bound         `check_fallback_bound`               from simulation
anything else about one station                 `simulate_servers`, `simulate_bulk`  Monte Carlo
==============================================  ===================================  ==============

**Unstable queues.** With a load of one or more there is no steady state. Closed forms then give
infinite means and quantiles and tail probabilities of one, element by element, and raise nothing:
arguments are often posterior draws of which some are unstable. Report their share; an average over
draws is infinite as soon as one of them is.

**Infinite moments.** A heavy-tailed service can have an infinite E[S^2], and then the mean wait is
infinite whatever the load. Functions of moments accept infinity and pass it on. A service on a grid
(`service_grid`, `service_grid_from_samples`) is truncated at the grid's end instead, which makes
every moment finite: state the cap with the answer, and look at `ServiceGrid.truncated_mass`.

**Draws.** Closed forms and tails take posterior draws as an axis. `bulk_queue` and the simulations
take one queue: loop over draws.

Errors are `bayeslat.errors.InputError`, for arguments that no queue can have.
"""

from bayeslat.queueing.arguments import batch_means_error
from bayeslat.queueing.bulk import BulkQueue, bulk_queue
from bayeslat.queueing.bulk_service import affine_service, bulk_queue_decay, bulk_wait_decay
from bayeslat.queueing.events import Events, poisson_arrivals, simulate_bulk, simulate_servers
from bayeslat.queueing.fallback import (
    FallbackCheck,
    check_fallback_bound,
    fallback_quantile_bound,
    fallback_tail_bound,
    largest_cut,
)
from bayeslat.queueing.general import (
    gg1_mean_wait_approximation,
    gg1_mean_wait_bound,
    mg1_mean_wait,
    mg1_wait_variance,
    mgc_mean_wait_approximation,
)
from bayeslat.queueing.markovian import (
    mmc_mean_sojourn,
    mmc_mean_wait,
    mmc_sojourn_quantile,
    mmc_sojourn_tail,
    mmc_utilisation,
    mmc_wait_probability,
    mmc_wait_quantile,
    mmc_wait_tail,
)
from bayeslat.queueing.priority import nonpreemptive_mean_waits, preemptive_mean_sojourns
from bayeslat.queueing.service_grid import ServiceGrid, service_grid, service_grid_from_samples
from bayeslat.queueing.transform import mg1_sojourn_tail_by_inversion, mg1_wait_tail_by_inversion
from bayeslat.queueing.waiting_tail import TailBounds, mg1_sojourn_tail, mg1_wait_tail

__all__ = [
    "BulkQueue",
    "Events",
    "FallbackCheck",
    "ServiceGrid",
    "TailBounds",
    "affine_service",
    "batch_means_error",
    "bulk_queue",
    "bulk_queue_decay",
    "bulk_wait_decay",
    "check_fallback_bound",
    "fallback_quantile_bound",
    "fallback_tail_bound",
    "gg1_mean_wait_approximation",
    "gg1_mean_wait_bound",
    "largest_cut",
    "mg1_mean_wait",
    "mg1_sojourn_tail",
    "mg1_sojourn_tail_by_inversion",
    "mg1_wait_tail",
    "mg1_wait_tail_by_inversion",
    "mg1_wait_variance",
    "mgc_mean_wait_approximation",
    "mmc_mean_sojourn",
    "mmc_mean_wait",
    "mmc_sojourn_quantile",
    "mmc_sojourn_tail",
    "mmc_utilisation",
    "mmc_wait_probability",
    "mmc_wait_quantile",
    "mmc_wait_tail",
    "nonpreemptive_mean_waits",
    "poisson_arrivals",
    "preemptive_mean_sojourns",
    "service_grid",
    "service_grid_from_samples",
    "simulate_bulk",
    "simulate_servers",
]
