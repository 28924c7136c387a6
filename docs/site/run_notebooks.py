"""Runs the notebooks of docs/notebooks and stores their outputs in the files; with `--check` the files stay as they are.

    python docs/site/run_notebooks.py [--check]

All of them run in one kernel, which imports torch once. Its sockets are files of this machine, so no network is needed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
#: Seconds that a cell may take on a busy machine.
TIMEOUT = 300


def run(paths: list[Path]) -> list[Any]:
    """The notebooks with new outputs; raises CellExecutionError where a cell does."""
    books = [nbformat.read(path, 4) for path in paths]
    # one notebook after the other, each in an empty namespace
    joined = nbformat.v4.new_notebook()
    for book in books:
        joined.cells += [nbformat.v4.new_code_cell("%reset -f"), *book.cells]
    with tempfile.TemporaryDirectory() as sockets:
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{sockets}/kernel")
        NotebookClient(joined, km=manager, timeout=TIMEOUT, record_timing=False).execute()
    for book in books:
        for cell in book.cells:
            if cell.cell_type == "code":
                # progress of libraries; it names files of this machine
                cell.outputs = _joined_streams(out for out in cell.outputs if out.get("name") != "stderr")
        for number, cell in enumerate((cell for cell in book.cells if cell.cell_type == "code"), 1):
            cell.execution_count = number
    return books


def _joined_streams(outputs: Any) -> list[Any]:
    """Outputs in which neighbouring pieces of printed text are one: how they were cut depends on the machine's load."""
    joined: list[Any] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in the Makefile; the kernel inherits it
    # commands that are printed begin with `python`, also where the environment is not activated
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    paths = sorted(FOLDER.glob("*.ipynb"))
    for path, book in zip(paths, run(paths), strict=True):
        if "--check" not in sys.argv:
            nbformat.write(book, path)
        print(f"{path.name}: {len(book.cells)} cells")


if __name__ == "__main__":
    main()
