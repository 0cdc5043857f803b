"""Digests that tell whether something kept was made by the same code from the same settings."""

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

__all__ = ["digest", "package_versions", "source_digest"]

PACKAGE: Final = Path(__file__).parents[1]


def digest(*parts: str) -> str:
    """Short digest of some texts, in hexadecimal."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


@cache
def source_digest(names: tuple[str, ...]) -> str:
    """Digest of modules and subpackages of bayeslat, by their paths inside it."""
    found = hashlib.sha256()
    for name in names:
        place = PACKAGE / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix in {".py", ".toml"}:
                found.update(path.read_bytes())
    return found.hexdigest()


def package_versions(names: Sequence[str]) -> str:
    """Versions of packages, a dash for what is not installed."""
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"
