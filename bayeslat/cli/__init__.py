"""The command line: it parses, calls the package and prints; it computes nothing."""

from bayeslat.cli.commands import app, main

__all__ = ["app", "main"]
