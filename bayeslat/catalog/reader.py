"""Look-up of GPUs and LLMs by the names that logs use, and the reader of datasheet files.

A name resolves to an entry, to a share of one (``A100-80GB@60%``) or, when nobody has heard of it,
to an entry without values: a fleet must be readable even where its datasheets are not.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayeslat.catalog import limits
from bayeslat.catalog.entries import GPU, LLM
from bayeslat.catalog.limits import StepRoofline
from bayeslat.errors import CatalogError

__all__ = ["Catalog", "load_catalog"]

_BUNDLED_FILES: Final = ("gpus.toml", "llms.toml")
_TABLES: Final = ("gpu", "llm")

_SHARE: Final = re.compile(r"(?P<device>.+?)\s*@\s*(?P<percent>\d+(\.\d+)?)\s*%")
_VENDOR: Final = re.compile(r"^(nvidia|amd|intel|habana|google|aws|tesla|quadro|geforce)[\s_\-]+")
_ORGANISATION: Final = re.compile(r"^.*/")
_TUNING: Final = re.compile(r"[_\-](instruct|chat|it|hf|base|thinking|v0\.\d|\d{4})$")
_QUANTISATION: Final = re.compile(
    r"[_\-](?P<precision>awq|gptq(-int[48])?|fp8(-dynamic)?|int[48]|nvfp4|mxfp4|w\d+a\d+"
    r"|quantized\.w\d+a\d+|bf16|fp16)$"
)
_SEPARATORS: Final = re.compile(r"[\s_\-]+")


def _plain(name: str) -> str:
    return _SEPARATORS.sub("", name.casefold())


def _gpu_key(name: str) -> str:
    """Spelling under which a GPU is found: no case, no separators, no vendor."""
    spelling = name.casefold().strip()
    while (shorter := _VENDOR.sub("", spelling)) != spelling:
        spelling = shorter
    return _plain(spelling)


def _llm_key(name: str) -> str:
    """Spelling under which an LLM is found: no case, no separators, no organisation."""
    return _plain(_ORGANISATION.sub("", name.strip().rstrip("/")))


def _base_model(name: str) -> tuple[str, str]:
    """Name without what does not change a model's shape, and the precision that it named."""
    spelling, precision = name.casefold().strip(), ""
    while True:
        if match := _QUANTISATION.search(spelling):
            precision = match["precision"]
            spelling = spelling[: match.start()]
        elif match := _TUNING.search(spelling):
            spelling = spelling[: match.start()]
        else:
            return spelling, precision


def _index[Entry: GPU | LLM](entries: Iterable[Entry], key: Any) -> dict[str, Entry]:
    """Entries under the keys of their names and aliases; later entries win."""
    found: dict[str, Entry] = {}
    for entry in entries:
        found.update(dict.fromkeys(map(key, (*entry.aliases, entry.name)), entry))
    return found


def _merged[Entry: GPU | LLM](old: Iterable[Entry], new: Iterable[Entry], key: Any) -> list[Entry]:
    """`old` with `new` added at the end; an entry takes over what led to the old of its name."""
    new = list(new)
    claimed = set(_index(new, key))
    entries = {key(entry.name): entry for entry in old}
    for entry in new:
        replaced = entries.pop(key(entry.name), None)
        inherited = [a for a in (replaced.aliases if replaced else ()) if key(a) not in claimed]
        entries[key(entry.name)] = replace(entry, aliases=(*entry.aliases, *inherited))
    return list(entries.values())


@dataclass(frozen=True)
class Catalog:
    """Known GPUs and LLMs. Immutable; `with_entries` returns a larger one.

    Parameters
    ----------
    gpus, llms
        Entries under their own names, in the order of the files.
    """

    gpus: Mapping[str, GPU]
    llms: Mapping[str, LLM]

    def __post_init__(self) -> None:
        object.__setattr__(self, "gpus", MappingProxyType(dict(self.gpus)))
        object.__setattr__(self, "llms", MappingProxyType(dict(self.llms)))

    def __reduce__(self) -> tuple[type[Self], tuple[dict[str, GPU], dict[str, LLM]]]:
        # A mapping proxy cannot be pickled, and worker processes need the catalogue.
        return type(self), (dict(self.gpus), dict(self.llms))

    @cached_property
    def _gpu_index(self) -> dict[str, GPU]:
        return _index(self.gpus.values(), _gpu_key)

    @cached_property
    def _llm_index(self) -> dict[str, LLM]:
        return _index(self.llms.values(), _llm_key)

    def gpu(self, name: str) -> GPU:
        """Datasheet of the GPU called `name`, under that name.

        Names and aliases are compared without case, spaces, ``-``, ``_`` and the vendor; then
        ``NAME@60%`` is read as 60 % of the compute units of NAME. A name that nothing matches
        gives an entry without values.
        """
        entry = self._find_gpu(name)
        if entry is not None:
            return replace(entry, name=name)
        match = _SHARE.fullmatch(name.strip())
        if match is None or not 0.0 < float(match["percent"]) <= 100.0:
            return GPU(name)
        whole = self._find_gpu(match["device"]) or GPU(name)
        return replace(whole, name=name, sm_share=whole.sm_share * float(match["percent"]) / 100)

    def llm(self, name: str) -> LLM:
        """Shape of the LLM called `name`, under that name.

        Names and aliases are compared without case, spaces, ``-``, ``_`` and ``organisation/``;
        then once more without endings that leave the shape as it is (``-Instruct``, ``-chat``,
        ``-hf``, ``-AWQ`` ...). An ending that names a precision sets `LLM.weight_precision`. A
        name that nothing matches gives an entry without values.
        """
        entry = self._find_llm(name)
        if entry is not None:
            return replace(entry, name=name)
        base, precision = _base_model(name)
        entry = self._find_llm(base) if base else None
        if entry is None:
            return LLM(name)
        return replace(entry, name=name, weight_precision=precision or entry.weight_precision)

    def _find_gpu(self, name: str) -> GPU | None:
        return self._gpu_index.get(_gpu_key(name))

    def _find_llm(self, name: str) -> LLM | None:
        return self._llm_index.get(_llm_key(name))

    def suggest_gpu(self, name: str) -> tuple[str, ...]:
        """Names of up to three GPUs spelled most like `name`, best first."""
        return _nearest(_gpu_key(name), self._gpu_index)

    def suggest_llm(self, name: str) -> tuple[str, ...]:
        """Names of up to three LLMs spelled most like `name`, best first."""
        return _nearest(_llm_key(name), self._llm_index)

    def with_entries(self, *entries: GPU | LLM) -> Self:
        """Catalogue with `entries` added; an entry replaces the one that has its name.

        The aliases of a replaced entry lead to the new one.
        """
        gpus = _merged(self.gpus.values(), (e for e in entries if isinstance(e, GPU)), _gpu_key)
        llms = _merged(self.llms.values(), (e for e in entries if isinstance(e, LLM)), _llm_key)
        return replace(self, gpus={e.name: e for e in gpus}, llms={e.name: e for e in llms})

    def step_floor_ms(
        self,
        gpu: str,
        llm: str,
        *,
        total_tokens: ArrayLike,
        context_tokens: ArrayLike = math.nan,
        tp: ArrayLike = 1,
        precision: str = "",
    ) -> NDArray[np.float64]:
        """Lower bound on the latency of steps of one deployment, from its datasheets.

        Where the log and the model name two precisions (a 16-bit log of a model published in 4
        bits), the one with the lower bound counts. See `bayeslat.roofline.step_floor_ms`.

        Parameters
        ----------
        gpu, llm
            Names as the log writes them.
        total_tokens, context_tokens
            Tokens computed and positions attended to; the latter NaN where unknown.
        tp
            Devices that share the work.
        precision
            As the log writes it; "" is 16 bits.

        Returns
        -------
        ndarray
            Milliseconds, of the broadcast shape; NaN where the datasheets do not tell.
        """
        return limits.step_floor_ms(
            self.gpu(gpu), self.llm(llm), total_tokens, context_tokens, tp=tp, precision=precision
        )

    def roofline(
        self,
        gpu: str,
        llm: str,
        *,
        batch_size: ArrayLike,
        total_tokens: ArrayLike,
        context_tokens: ArrayLike = math.nan,
        tp: ArrayLike = 1,
        precision: str = "",
        mfu: ArrayLike = 1.0,
        bandwidth_efficiency: ArrayLike = 1.0,
    ) -> StepRoofline:
        """Where steps of one deployment stand against the roofline of its datasheets.

        Parameters
        ----------
        gpu, llm, total_tokens, context_tokens, tp, precision
            As in `step_floor_ms`, whose answer is the `floor_ms` of this one at full rates.
        batch_size
            Requests of the step.
        mfu, bandwidth_efficiency
            Shares of the peak throughput and of the bandwidth that are reached, in (0, 1].

        Raises
        ------
        InputError
            B < 1, S < B, C < 0, tp < 1, or a share outside (0, 1].
        """
        return limits.step_roofline(
            self.gpu(gpu),
            self.llm(llm),
            limits.Steps(batch_size, total_tokens, context_tokens, tp),
            precision=precision,
            mfu=mfu,
            bandwidth_efficiency=bandwidth_efficiency,
        )

    def kv_bytes_per_token(self, llm: str, *, kv_precision: str = "") -> float:
        """Bytes of key-value cache that one position of an LLM takes over all layers.

        Parameters
        ----------
        llm
            Name as the log writes it.
        kv_precision
            Of the cache, 16 or 8 bits. It is not the precision of the weights: engines cache in
            16 bits unless they are told otherwise.

        Returns
        -------
        float
            Bytes; NaN where the datasheet does not tell.
        """
        return limits.kv_bytes_per_token(self.llm(llm), kv_precision)

    def kv_capacity_tokens(
        self,
        gpu: str,
        llm: str,
        *,
        tp: int = 1,
        precision: str = "",
        kv_precision: str = "",
        memory_utilisation: float = 0.9,
    ) -> float:
        """Positions that the key-value cache of a deployment holds; see `limits`.

        Parameters
        ----------
        gpu, llm
            Names as the log writes them.
        tp
            Devices of the deployment.
        precision
            Of the weights; "" is what the LLM is published in.
        kv_precision
            Of the cache, as in `kv_bytes_per_token`.
        memory_utilisation
            Share of the memory that the engine takes, in (0, 1].

        Returns
        -------
        float
            Whole tokens; 0 where the weights do not fit, NaN where the datasheets do not tell.

        Raises
        ------
        InputError
            tp < 1 or a share outside (0, 1].
        """
        return limits.kv_capacity_tokens(
            self.gpu(gpu),
            self.llm(llm),
            tp=tp,
            precision=precision,
            kv_precision=kv_precision,
            memory_utilisation=memory_utilisation,
        )


def _nearest[Entry: GPU | LLM](key: str, index: Mapping[str, Entry]) -> tuple[str, ...]:
    keys = difflib.get_close_matches(key, index, n=12, cutoff=0.5)
    return tuple(dict.fromkeys(index[match].name for match in keys))[:3]


def _refuse(file: str, fault: str) -> CatalogError:
    return CatalogError(f"{file}: {fault}")


def _parse[Entry: GPU | LLM](
    file: str, heading: str, tables: Any, build: Callable[[Mapping[str, Any]], Entry]
) -> list[Entry]:
    """Entries of one kind from the tables of a file."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise _refuse(file, f"{heading}: got {tables!r}, expected tables headed [[{heading}]]")
    entries = []
    for table in tables:
        try:
            entries.append(build(table))
        except CatalogError as fault:
            raise _refuse(file, str(fault)) from fault
    return entries


def _check_unique[Entry: GPU | LLM](file: str, entries: Iterable[Entry], key: Any) -> None:
    """Two entries of one file never answer to the same name."""
    owners: dict[str, Entry] = {}
    for entry in entries:
        for name in (entry.name, *entry.aliases):
            owner = owners.setdefault(key(name), entry)
            if owner is not entry:
                what = "name" if name == entry.name else "aliases"
                raise _refuse(
                    file,
                    f"{type(entry).__name__} {entry.name!r}: {what}: got {name!r}, which already "
                    f"leads to {owner.name!r}, expected a name of its own; remove one of the two",
                )


def _read(file: str, text: str) -> tuple[list[GPU], list[LLM]]:
    """Entries of one TOML text; `file` is its name in messages."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as fault:
        raise _refuse(
            file, f"got no valid TOML ({fault}), expected tables [[gpu]] and [[llm]]"
        ) from fault
    for key in tables:
        if key not in _TABLES:
            raise _refuse(file, f"{key}: got an unknown table, expected [[gpu]] or [[llm]]")
    gpus = _parse(file, "gpu", tables.get("gpu", []), GPU.from_dict)
    llms = _parse(file, "llm", tables.get("llm", []), LLM.from_dict)
    _check_unique(file, gpus, _gpu_key)
    _check_unique(file, llms, _llm_key)
    return gpus, llms


@cache
def _bundled() -> Catalog:
    """Catalogue that ships with the package."""
    gpus: list[GPU] = []
    llms: list[LLM] = []
    for file in _BUNDLED_FILES:
        text = (resources.files("bayeslat.catalog") / file).read_text(encoding="utf-8")
        more_gpus, more_llms = _read(file, text)
        gpus += more_gpus
        llms += more_llms
    return Catalog(gpus={e.name: e for e in gpus}, llms={e.name: e for e in llms})


def load_catalog(path: str | Path | None = None) -> Catalog:
    """Bundled catalogue, with the entries of a file added.

    Parameters
    ----------
    path
        TOML file with tables ``[[gpu]]`` and ``[[llm]]``, whose keys are the fields of `GPU` and
        `LLM`. Its entries win over the bundled ones.

    Returns
    -------
    Catalog

    Raises
    ------
    CatalogError
        The file cannot be read, is no TOML, holds an unknown key or a wrong value, or gives one
        name to two entries.

    Examples
    --------
    >>> load_catalog().gpu("NVIDIA H200").bandwidth_tbs
    4.8
    """
    if path is None:
        return _bundled()
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise _refuse(str(path), f"got {fault}, expected a TOML file that can be read") from fault
    gpus, llms = _read(str(path), text)
    return _bundled().with_entries(*gpus, *llms)
