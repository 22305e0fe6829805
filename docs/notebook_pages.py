"""Show the notebooks in notebooks/ as pages, with the outputs that they keep; a hook that mkdocs.yml names.

Designs considered: mkdocs-jupyter gives every page half a megabyte of JupyterLab's style, which looks unlike the other
pages, and may load scripts from a server. A notebook with texts and pictures is Markdown already, but for its cells.
"""

import json
from collections.abc import Iterator
from typing import Any

_FENCE = "````"  # longer than any fence in a cell


def on_files(files: Any, config: Any) -> Any:
    """Replace each notebook by a page of the same name (mkdocs calls this once)."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = file.src_uri.removesuffix(".ipynb") + ".md"
        files.remove(file)
        files.append(type(file).generated(config, page, content=markdown(json.loads(file.content_string))))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to notebooks lead to their pages (mkdocs calls this for each page)."""
    return markdown.replace(".ipynb)", ".md)")


def markdown(notebook: dict[str, Any]) -> str:
    """The cells and outputs of a notebook as Markdown; pictures are part of the text."""
    return "\n\n".join(part for cell in notebook["cells"] for part in _parts(cell)) + "\n"


def _parts(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    first, _, rest = source.partition("\n")
    yield _block("sh", rest) if first.startswith("%%bash") else _block("python", source)
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            picture = "".join("".join(data["image/png"]).split())
            yield f"![Figure drawn by the cell above](data:image/png;base64,{picture})"
        elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
            yield _block("text", text)


def _block(language: str, text: str) -> str:
    return f"{_FENCE}{language}\n{text}\n{_FENCE}"
