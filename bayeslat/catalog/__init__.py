"""Datasheets of GPUs and LLMs, bundled and the user's own."""

from bayeslat.catalog.entries import GPU, LLM
from bayeslat.catalog.limits import StepRoofline
from bayeslat.catalog.reader import Catalog, load_catalog

__all__ = ["GPU", "LLM", "Catalog", "StepRoofline", "load_catalog"]
