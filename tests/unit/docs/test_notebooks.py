"""The notebooks as they are kept: executed to the end, small, and silent about the machine that executed them."""

import os
import re
import socket
from pathlib import Path

import nbformat
import pytest
from notebooks import NOTEBOOKS

EVERY_NOTEBOOK = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
ABSOLUTE = re.compile(r"(?<![\w.:/<-])/(?:tmp|home|root|work|var|opt|mnt|Users|private)\b")
ADDRESS = re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}\b")


def texts_of(output: nbformat.NotebookNode) -> list[str]:
    """The text of an output."""
    data = output.get("data", {})
    return [output.get("text", ""), *(text for kind, text in data.items() if not kind.startswith("image/"))]


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """The faults in the kept outputs of a notebook."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    found = []
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("its cells were not executed in order, in one go")
    if any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs):
        found.append("an output is an error")
    if not any("image/png" in output.get("data", {}) for output in outputs):
        found.append("it shows no picture")
    shown = "\n".join([*(text for output in outputs for text in texts_of(output)), *(cell.source for cell in code)])
    own = [socket.gethostname(), os.path.expanduser("~") + "/"]
    if ABSOLUTE.search(shown) or ADDRESS.search(shown) or any(name in shown for name in own):
        found.append("it names a path or a host")
    if "\x1b" in shown:
        found.append("it has control characters of a terminal")
    return found


@EVERY_NOTEBOOK
def test_a_notebook_is_kept_as_executed(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not faults(notebook)
    assert path.stat().st_size < 300_000


@EVERY_NOTEBOOK
def test_its_shell_cells_stop_at_the_first_command_that_fails(path: Path) -> None:
    """A line that begins with `!` would fail unnoticed."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not re.search(r"^\s*!", cell.source, re.MULTILINE)
            assert "%%bash" not in cell.source or cell.source.startswith("%%bash -e\n")


@EVERY_NOTEBOOK
def test_its_links_lead_somewhere(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    links = [link for text in texts for link in re.findall(r"\]\(([^)#]+)", text)]
    assert links
    assert not [link for link in links if "://" not in link and not (path.parent / link).exists()]


def notebook_with(*outputs: nbformat.NotebookNode, count: int = 1) -> nbformat.NotebookNode:
    picture = nbformat.v4.new_output("display_data", data={"image/png": "", "text/plain": "<Figure>"})
    cell = nbformat.v4.new_code_cell("1", execution_count=count, outputs=[picture, *outputs])
    return nbformat.v4.new_notebook(cells=[cell])


def printed(text: str, name: str = "stdout") -> nbformat.NotebookNode:
    return nbformat.v4.new_output("stream", name=name, text=text)


@pytest.mark.parametrize(
    "notebook",
    [
        notebook_with(count=2),
        notebook_with(nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])),
        notebook_with(printed("warning", name="stderr")),
        notebook_with(printed("saved to /tmp/x")),
        notebook_with(printed("listening on 10.1.2.3:80")),
        notebook_with(printed(f"on {socket.gethostname()}")),
        notebook_with(printed("\x1b[1mbold")),
        nbformat.v4.new_notebook(),
    ],
)
def test_a_fault_is_found(notebook: nbformat.NotebookNode) -> None:
    assert faults(notebook)


def test_a_relative_path_is_no_fault() -> None:
    assert not faults(notebook_with(printed("results in runs/x/tmp and shards/work, 12/s, 95 % of 0.33")))
