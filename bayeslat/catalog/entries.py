"""Datasheet entries: what is known of an accelerator and of an LLM before anything is measured.

An entry with unknown values is legal: a fleet may hold a GPU whose datasheet nobody has typed in.
Unknown is `None`, never zero.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from numbers import Integral, Real
from typing import Any, Final, NamedTuple, Self

from bayeslat.errors import CatalogError

__all__ = ["GPU", "LLM"]


class _Range(NamedTuple):
    """Plausible values of one quantity, wide enough for any real device and no swapped unit."""

    unit: str
    low: float
    high: float


_RANGES: Final = {
    "peak_tflops": _Range("TFLOP/s", 1e-3, 1e5),
    "fp8_tflops": _Range("TFLOP/s", 1e-3, 1e5),
    "bandwidth_tbs": _Range("TB/s", 1e-3, 100.0),
    "memory_gb": _Range("GB", 0.1, 1e5),
    "parameters_b": _Range("billions of parameters", 1e-4, 1e5),
    "active_parameters_b": _Range("billions of parameters", 1e-4, 1e5),
}


def _is_real(value: object) -> bool:
    # bool is a number to Python, and never a datasheet value.
    return isinstance(value, Real) and not isinstance(value, bool)


def _clean_measure(label: str, key: str, value: Any) -> float | None:
    """`value` as a float within the plausible range of `key`, or `None`."""
    if value is None:
        return None
    unit, low, high = _RANGES[key]
    if not _is_real(value) or not (math.isfinite(value) and low <= value <= high):
        raise CatalogError(
            f"{label}: {key}: got {value!r}, expected {unit} between {low:g} and {high:g}; "
            f"check the unit, or leave the key out where the value is unknown"
        )
    return float(value)


def _clean_count(label: str, key: str, value: Any, *, minimum: int = 1) -> int | None:
    """`value` as an int of at least `minimum`, or `None`."""
    if value is None:
        return None
    if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
        raise CatalogError(
            f"{label}: {key}: got {value!r}, expected a whole number of at least {minimum}; "
            f"leave the key out where the value is unknown"
        )
    return int(value)


def _clean_text(label: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise CatalogError(f"{label}: {key}: got {value!r}, expected a text in quotes")
    return value


def _clean_name(kind: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise CatalogError(f"{kind}: name: got {value!r}, expected a text that is not empty")
    return value


def _clean_aliases(label: str, value: Any) -> tuple[str, ...]:
    # A text is iterable too, and its letters are nobody's aliases.
    names = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else None
    if names is None or not all(isinstance(name, str) and name.strip() for name in names):
        raise CatalogError(
            f"{label}: aliases: got {value!r}, expected a list of texts that are not empty"
        )
    return names


def _set(entry: object, **values: Any) -> None:
    """Write cleaned values into a frozen entry; for use in `__post_init__` only."""
    for key, value in values.items():
        object.__setattr__(entry, key, value)


class _Entry:
    """What both kinds of entry share: plain dictionaries in and out."""

    def to_dict(self) -> dict[str, Any]:
        """Fields that differ from their default, as plain JSON-able values."""
        plain: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                plain[field.name] = list(value) if isinstance(value, tuple) else value
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Entry from the output of `to_dict` or a table of a TOML file.

        Parameters
        ----------
        values
            Field names with their values; ``name`` is required.

        Raises
        ------
        CatalogError
            An unknown key, no name, or a value of the wrong type or out of range.
        """
        allowed = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        label = f"{cls.__name__} {values.get('name', '?')!r}"
        for key in values:
            if key not in allowed:
                raise CatalogError(
                    f"{label}: {key}: got an unknown key, expected one of {', '.join(allowed)}"
                )
        if "name" not in values:
            raise CatalogError(f"{label}: name: got nothing, expected a text; add the key")
        return cls(**values)


@dataclass(frozen=True)
class GPU(_Entry):
    """Datasheet of one accelerator, as one device of a tensor-parallel group sees it.

    Parameters
    ----------
    name
        Name as logs write it.
    peak_tflops
        Dense bf16/fp16 tensor throughput, TFLOP/s. Datasheets often print the figure with
        sparsity, which is twice as large.
    bandwidth_tbs
        Memory bandwidth, TB/s.
    memory_gb
        Memory, GB.
    fp8_tflops
        Dense fp8 tensor throughput, TFLOP/s, where the device has it.
    sm_share
        Share of the compute units in use, in (0, 1]; memory bandwidth is not divided by it.
    aliases
        Other names of the same device.
    source
        Document the numbers come from.

    Raises
    ------
    CatalogError
        A value is of the wrong type or outside the plausible range of its unit.
    """

    name: str
    _: KW_ONLY
    peak_tflops: float | None = None
    bandwidth_tbs: float | None = None
    memory_gb: float | None = None
    fp8_tflops: float | None = None
    sm_share: float = 1.0
    aliases: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        label = f"GPU {_clean_name('GPU', self.name)!r}"
        for key in ("peak_tflops", "bandwidth_tbs", "memory_gb", "fp8_tflops"):
            _set(self, **{key: _clean_measure(label, key, getattr(self, key))})
        if not _is_real(self.sm_share) or not 0.0 < self.sm_share <= 1.0:
            raise CatalogError(
                f"{label}: sm_share: got {self.sm_share!r}, expected a share above 0 and up to 1; "
                f"write 60 % as 0.6"
            )
        _set(self, sm_share=float(self.sm_share), aliases=_clean_aliases(label, self.aliases))
        _clean_text(label, "source", self.source)

    @property
    def device(self) -> str:
        """The device without its setting: ``A100-80GB`` for ``A100-80GB@60%``."""
        whole = self.name.rpartition("@")[0].strip()
        return whole if whole and self.sm_share < 1.0 else self.name

    @property
    def effective_tflops(self) -> float | None:
        """Dense bf16/fp16 throughput of the share in use, TFLOP/s; `None` where unknown."""
        return None if self.peak_tflops is None else self.peak_tflops * self.sm_share

    @property
    def is_known(self) -> bool:
        """Whether both roofline numbers, peak and bandwidth, are known."""
        return self.peak_tflops is not None and self.bandwidth_tbs is not None


@dataclass(frozen=True)
class LLM(_Entry):
    """Shape of one language model, from its published configuration.

    Parameters
    ----------
    name
        Name as logs write it.
    parameters_b
        Parameters, billions.
    active_parameters_b
        Parameters that one token uses, billions; left out for a dense model.
    layers, hidden_size
        Number of transformer layers and their width.
    kv_heads, head_size
        Key-value heads of one layer (1 for multi-query attention) and values in one head.
    kv_values_per_layer
        Values cached for one position in one layer, where that is not
        ``2 * kv_heads * head_size``: multi-head latent attention stores one compressed vector.
    full_attention_layers
        Layers that attend to the whole context, where the others see a sliding window; left out
        where all do.
    weight_precision
        Precision in which the weights are published, where that is not 16 bits ("fp8", "mxfp4").
    aliases
        Other names of the same model.
    source
        Document the numbers come from.

    Raises
    ------
    CatalogError
        A value is of the wrong type, outside the plausible range of its unit, or contradicts
        another.
    """

    name: str
    _: KW_ONLY
    parameters_b: float | None = None
    active_parameters_b: float | None = None
    layers: int | None = None
    hidden_size: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    kv_values_per_layer: int | None = None
    full_attention_layers: int | None = None
    weight_precision: str = ""
    aliases: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self) -> None:
        label = f"LLM {_clean_name('LLM', self.name)!r}"
        for key in ("parameters_b", "active_parameters_b"):
            _set(self, **{key: _clean_measure(label, key, getattr(self, key))})
        for key in ("layers", "hidden_size", "kv_heads", "head_size", "kv_values_per_layer"):
            _set(self, **{key: _clean_count(label, key, getattr(self, key))})
        full = _clean_count(label, "full_attention_layers", self.full_attention_layers, minimum=0)
        _set(self, full_attention_layers=full, aliases=_clean_aliases(label, self.aliases))
        _clean_text(label, "weight_precision", self.weight_precision)
        _clean_text(label, "source", self.source)
        self._check_parts(label)

    def _check_parts(self, label: str) -> None:
        """Refuse a part that is larger than its whole."""
        for part, whole in (
            ("active_parameters_b", "parameters_b"),
            ("full_attention_layers", "layers"),
        ):
            small, large = getattr(self, part), getattr(self, whole)
            if small is not None and large is not None and small > large:
                raise CatalogError(
                    f"{label}: {part}: got {small!r}, expected at most {whole} = {large!r}"
                )

    @property
    def active_b(self) -> float | None:
        """Parameters that one token uses, billions: all of them for a dense model."""
        return self.parameters_b if self.active_parameters_b is None else self.active_parameters_b

    @property
    def full_attention_share(self) -> float:
        """Share of the layers that attend to the whole context; 1 where nothing else is known."""
        if self.full_attention_layers is None or self.layers is None:
            return 1.0
        return self.full_attention_layers / self.layers

    def kv_bytes_per_position(self, bytes_per_value: float = 2) -> float | None:
        """Bytes of key-value cache that one context position takes over all layers.

        ``2 * layers * kv_heads * head_size * bytes_per_value``, or ``layers * kv_values_per_layer
        * bytes_per_value`` where that field is given.

        Parameters
        ----------
        bytes_per_value
            Bytes of one cached value: 2 for a 16-bit cache, 1 for fp8.

        Returns
        -------
        float or None
            Bytes over all devices together; `None` where the shape is unknown.
        """
        values = self.kv_values_per_layer
        if values is None and self.kv_heads is not None and self.head_size is not None:
            values = 2 * self.kv_heads * self.head_size
        if values is None or self.layers is None:
            return None
        return self.layers * values * bytes_per_value
