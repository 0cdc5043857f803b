"""inference."""

from bayeslat.inference.devices import prepare_devices

prepare_devices()
