"""Runs notebooks from top to bottom and saves copies with their outputs: `python -m notebooks.execute`."""

import argparse
import os
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

FOLDER = Path(__file__).resolve().parent
PATHS = sorted(FOLDER.glob("*.ipynb"))
_SECONDS = 600  # for one cell
_MOVE = re.compile(r"\x1b\[\d*[A-K]")
_OUTPUT = {
    "PLOTLY_RENDERER": "notebook",  # plots that need no network
    "PYTHONWARNINGS": "ignore",
}


def execute(path: Path, output_dir: Path, **environment: str) -> nbformat.NotebookNode:
    """Runs a notebook and writes the executed copy, even if a cell fails.

    Args:
        path: the notebook.
        output_dir: folder for the copy. All notebooks run in its folder `work`, so that the models of the demo are
            trained only once.
        environment: variables for the kernel, in addition to those of this process.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; the message shows the cell and its error.
    """
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    work = output_dir / "work"
    work.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as sockets:
        client = NotebookClient(
            notebook,
            timeout=_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": work}},
            config=Config(
                {"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}
            ),  # no open port
        )
        try:
            client.execute(env={**os.environ, **_OUTPUT, "PYTHONPATH": _paths(), **environment})
        finally:
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
            nbformat.write(notebook, output_dir / path.name)
    return notebook


def _paths() -> str:
    """PYTHONPATH with this checkout before an installed package."""
    return os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))


def _is_bar(output: nbformat.NotebookNode) -> bool:
    """Whether an output is a progress bar, or moves the cursor to one."""
    is_error = output.output_type == "stream" and output.name == "stderr"
    return is_error and ("\r" in output.text or not _MOVE.sub("", output.text).strip())


def main() -> None:
    """Runs the notebooks named, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m notebooks.execute", description=main.__doc__)
    parser.add_argument(
        "notebooks", nargs="*", type=Path, default=PATHS, help="Paths of notebooks; by default all."
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("build/notebooks"), help="Folder for the copies."
    )
    options = parser.parse_args()
    for path in options.notebooks:
        start = time.perf_counter()
        execute(path, options.output_dir)
        print(f"{options.output_dir / path.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
