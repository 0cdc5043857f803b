"""From a model to draws: geometry, samplers, verdicts, cold starts.

Importing this package sets how many devices JAX makes of the CPU. It cannot wait for a fit: the
count is fixed once JAX is used, and PyMC, imported by the modules below, would set its own.
"""

from bayeslat.inference.devices import prepare_devices

prepare_devices()
