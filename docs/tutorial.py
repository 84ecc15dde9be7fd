"""Runs the tutorial notebook and stores it with its output.

    uv run python docs/tutorial.py

What differs between two runs and means nothing (times, warnings, the copy of Plotly that comes with
every figure) is left out. A digest of the cells is kept with the notebook, so that a test sees
without running it whether the output belongs to them.
"""

import hashlib
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

TUTORIAL = Path(__file__).parent / "how-to/tutorial.ipynb"
PLOTLY = "application/vnd.plotly.v1+json"
DIGEST = "sources_sha256"


def sources_digest(notebook: NotebookNode) -> str:
    """Return a digest of what the cells of a notebook are, without their output."""
    seen = hashlib.sha256()
    for cell in notebook.cells:
        seen.update(f"{cell.cell_type}\n{cell.source}\n".encode())
    return seen.hexdigest()


def structure(notebook: NotebookNode) -> list[list[str]]:
    """Return, for each cell with code, the kinds of its outputs."""
    return [
        [kind for output in cell.outputs for kind in _kinds(output)]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def _kinds(output: NotebookNode) -> list[str]:
    return sorted(output.data) if "data" in output else [str(output.get("name", "error"))]


def run(notebook: NotebookNode, folder: Path) -> None:
    """Run a notebook in a folder and put its output into it, tidied."""
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources=place, record_timing=False
    )
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata = NotebookNode()
            cell.outputs = [_tidied(o) for o in cell.outputs if o.get("name") != "stderr"]


def _tidied(output: NotebookNode) -> NotebookNode:
    if PLOTLY in output.get("data", {}):
        figure = output.data[PLOTLY]
        # Plotly's own look, thousands of lines of it, which it has without being told.
        figure.get("layout", {}).pop("template", None)
        output.data = NotebookNode({PLOTLY: figure})
    return output


def main() -> None:
    """Run the tutorial and write it."""
    notebook = nbformat.read(TUTORIAL, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        run(notebook, Path(folder))
    kernel = notebook.metadata.get("kernelspec", {})
    notebook.metadata = NotebookNode({"kernelspec": kernel, DIGEST: sources_digest(notebook)})
    nbformat.write(notebook, TUTORIAL)


if __name__ == "__main__":
    main()
