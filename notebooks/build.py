"""Run notebooks and keep their outputs: ``python notebooks/build.py [NAME ...]``.

Without names all notebooks are run. One that fails stays as it was. Those that read recorded steps
need them beside the repository, in ``../shared/data``.
"""

import argparse
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Final

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

FOLDER: Final = Path(__file__).parent
QUIET: Final = {"PYTHONWARNINGS": "ignore:IProgress not found", "TF_CPP_MIN_LOG_LEVEL": "3"}
"""Environment of the kernels: missing progress bars, and compilers that complain of a busy machine,
are no output of a notebook."""

LIMIT_S: Final = 1800
"""Seconds that a cell may take."""


def executed(path: Path) -> NotebookNode:
    """The notebook with the outputs of a fresh run, and nothing that differs from run to run."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=LIMIT_S, resources={"metadata": {"path": FOLDER}})
    client.execute()
    notebook.metadata = NotebookNode(
        kernelspec=notebook.metadata.kernelspec, language_info={"name": "python"}
    )
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the run
    return notebook


def main() -> int:
    """Run what the command line names."""
    names = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    chosen = parser.parse_args().names or names
    if unknown := sorted({*chosen} - {*names}):
        parser.error(f"got {', '.join(unknown)}, expected some of {', '.join(names)}")
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    for name in chosen:
        begun = perf_counter()
        try:
            notebook = executed(FOLDER / f"{name}.ipynb")
        except CellExecutionError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"{name}: {perf_counter() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
