import json

from notebook_pages import markdown, on_page_markdown
from notebooks import NOTEBOOKS


def cell(source: str, *outputs: dict[str, object]) -> dict[str, object]:
    return {"cell_type": "code", "source": [source], "outputs": list(outputs)}


def test_texts_stay_and_code_becomes_blocks() -> None:
    cells = [{"cell_type": "markdown", "source": ["# Title\n", "Text"]}, cell("1 + 1"), cell("%%bash -e\nls")]
    assert markdown({"cells": cells}) == "# Title\nText\n\n````python\n1 + 1\n````\n\n````sh\nls\n````\n"


def test_outputs_follow_their_cell() -> None:
    printed = {"output_type": "stream", "text": ["two\n", "lines\n"]}
    value = {"output_type": "execute_result", "data": {"text/plain": ["2"]}}
    picture = {"output_type": "display_data", "data": {"image/png": "iVBO\nRw==\n", "text/plain": ["<Figure>"]}}
    shown = markdown({"cells": [cell("f()", printed, value, picture)]})
    assert "````text\ntwo\nlines\n````\n\n````text\n2\n````\n\n![" in shown
    assert "](data:image/png;base64,iVBORw==)" in shown
    assert "<Figure>" not in shown


def test_a_link_to_a_notebook_leads_to_its_page() -> None:
    assert on_page_markdown("see [x](notebooks/x.ipynb)", page=None) == "see [x](notebooks/x.md)"


def test_every_notebook_is_a_page_with_a_heading() -> None:
    for path in NOTEBOOKS:
        assert markdown(json.loads(path.read_text("utf-8"))).startswith("# ")
