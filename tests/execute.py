"""Re-execute notebooks in order and store their outputs: `python tests/execute.py [NOTEBOOK …]`."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def execute(path: Path) -> None:
    """Run one notebook in a fresh kernel and write it back with outputs, and nothing that varies by machine."""
    notebook = nbformat.read(path, as_version=4)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", record_timing=False, store_widget_state=False,
        coalesce_streams=True, resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    client.execute()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in [Path(p) for p in sys.argv[1:]] or [*sorted(NOTEBOOKS.rglob("[0-9]*.ipynb"))]:
        print(path.name, flush=True)
        execute(path.resolve())
