"""Re-execute notebooks in order and store their outputs: `python tests/execute.py [NOTEBOOK …]`."""

import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import get_kernel_spec
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def execute(path: Path) -> None:
    """Run one notebook in a fresh kernel and write it back with outputs, ready to be opened and read.

    The metadata is what JupyterLab writes when a kernel starts, name and version of Python included: a notebook that
    has anything else is marked as changed on opening. (With another version of Python it still is.) Widgets need a
    kernel; without one, a page shows their text where no view is stored.
    """
    notebook = nbformat.read(path, as_version=4)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", record_timing=False, store_widget_state=False,
        coalesce_streams=True, resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    kernel = {"display_name": get_kernel_spec("python3").display_name, "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": notebook.metadata["language_info"]}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in [Path(p) for p in sys.argv[1:]] or [*sorted(NOTEBOOKS.rglob("[0-9]*.ipynb"))]:
        print(path.name, flush=True)
        execute(path.resolve())
