"""The configuration page, written from the schema."""

import re

import pytest
from write_configuration import PAGE, page

TEXT = page()


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text("utf-8") == TEXT, "run `python docs/write_configuration.py`"


def test_every_link_leads_to_one_heading() -> None:
    headings = re.findall(r"\{ #(\S+) \}", TEXT)
    assert len(headings) == len(set(headings)) > 50
    assert set(re.findall(r"\]\(#(\S+?)\)", TEXT)) <= set(headings)


@pytest.mark.parametrize(
    "row",
    [
        "| `seed` | integer ≥ 0 | `0` | random seed for weights, data order, negatives and dropout |",
        "| `model.similarity` | `dot`, `cosine` | `dot` | ",
        "| `train.patience` | integer ≥ 1 or `null` | `5` | ",
        "| `adaptation.bottleneck` | [section](#adaptation-bottleneck-of-k_adapter) | ",
        "| `data.cache` ↻ | path | `~/.cache/transrec` | ",
    ],
)
def test_a_row_has_type_default_and_description(row: str) -> None:
    assert f"\n{row}" in TEXT
