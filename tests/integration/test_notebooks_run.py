"""Every notebook runs from its first cell to its last."""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from commands import ENVIRONMENT
from nbclient import NotebookClient
from notebooks import NOTEBOOKS
from pages import write_program

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path, "transrec", f'exec {sys.executable} -m transrec "$@"')
    # Paths of Ray's sockets would be too long in the folder of a test.
    places = {"TMPDIR": str(tmp_path), "RAY_TMPDIR": tempfile.gettempdir()}
    for name, value in {**ENVIRONMENT, **places}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()  # raises at the first cell that fails
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert pictures
