import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from shard_sets import make_version_3

from data_tools.build import build
from data_tools.inspection import draw_bar, facts, inspect, log_bins
from data_tools.sources.tables import TablesSource
from transrec.data.shards.schema import ShardSetError


def test_shows_counts_and_samples(shards: Path) -> None:
    out = io.StringIO()
    inspect(shards, Console(file=out, width=100))
    text = out.getvalue()
    for part in (
        "3 users, 3 items, 5 interactions",
        "1 items (33.3%)",
        "55.556%",
        "none: positions 5 to 30 instead of times",
        "1 interactions (50% of those after another) have the same time as the one",
        "Alpha",
        "First letter",
        "genre",
        "█",
    ):
        assert part in text


def test_impressions_are_summed_up(shown_shards: Path) -> None:
    """Five in two requests of u1 and one each of u3 and u4; the label of u3's was not observed."""
    assert impressions_line(shown_shards) == (
        "5 in 4 requests of 3 users; click 50.00% of 4 observed; context: position"
    )


def test_a_set_without_impressions_says_so(shards: Path) -> None:
    assert impressions_line(shards) == "none"
    make_version_3(shards)
    assert impressions_line(shards) == "none"


def impressions_line(folder: Path) -> str:
    return line_of(folder, "impressions")


def line_of(folder: Path, name: str) -> str:
    """The value of the row `name` in the table of facts."""
    out = io.StringIO()
    inspect(folder, Console(file=out, width=150))
    [line] = [line for line in out.getvalue().splitlines() if line.startswith(f"{name}  ")]
    return line.removeprefix(name).strip()


@pytest.fixture
def sparse(write_tables: Callable[..., Path], tmp_path: Path) -> Path:
    """Four items: nobody interacted with two, one text is blank and one is the title, and two brands are blank."""
    items = (
        "item_id\ttitle\ttext\tbrand\tcolour\n"
        "sku-7\tAlpha\tFirst letter\tNordlys\tred\nsku-8\tBeta\t \t\tblue\n"
        "sku-9\tGamma\tGamma\t  \tred\nsku-10\tDelta\tFourth\tFjord\tred\n"
    )
    interactions = "user_id\titem_id\ttimestamp\nu1\tsku-7\t1\nu1\tsku-10\t2\n"
    build(TablesSource(write_tables(items=items, interactions=interactions)), "tables", tmp_path / "out")
    return tmp_path / "out"


def test_items_without_interactions_and_blank_fields_are_counted(sparse: Path) -> None:
    assert line_of(sparse, "no interactions") == "2 items (50.0%)"
    assert line_of(sparse, "blank texts") == "2 items (50.0%), whose text is blank or equal to the title"
    assert line_of(sparse, "text fields") == "title, text, brand (50.0% filled), colour (100.0% filled)"
    found = facts(sparse)
    assert (found["items_without_interactions"], found["blank_texts"]) == (2, 2)
    assert found["filled"] == {"brand": 2, "colour": 4}


def test_an_item_that_cannot_be_read_is_named(sparse: Path) -> None:
    shard = next(sparse.glob("items-*.tar"))
    shard.write_bytes(shard.read_bytes().replace(b'{"item_id": "sku-9"', b'["item_id": "sku-9"'))
    with pytest.raises(ShardSetError, match=r"items-\S+tar: item 'sku-9' cannot be read at offset \d+: "):
        facts(sparse)


def test_items_are_shown_by_their_ids_with_their_other_fields(sparse: Path) -> None:
    out = io.StringIO()
    inspect(sparse, Console(file=out, width=100))
    lines = [" ".join(line.strip("│ ").split()) for line in out.getvalue().splitlines()]
    for line in ("sku-7 Alpha ×1, no image", "brand: Nordlys, colour: red", "sku-8 Beta ×0, no image", "colour: blue"):
        assert line in lines


def test_a_block_of_users_without_interactions_is_no_hindrance(
    write_tables: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_tools.build.BLOCK_USERS", 1)
    shown = "user_id\titem_id\ttimestamp\tclick\nnew\ta\t1\t0\n"
    folder = write_tables(interactions="user_id\titem_id\ttimestamp\nu1\ta\t1\nu1\tb\t1\n", impressions=shown)
    build(TablesSource(folder), "tables", tmp_path / "out")
    out = io.StringIO()
    inspect(tmp_path / "out", Console(file=out, width=150))
    assert "1 interactions (100% of those after another)" in out.getvalue()


def test_dates_are_shown_where_times_are_times(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    folder = write_tables(interactions="user_id\titem_id\ttimestamp\nu1\ta\t1577836800\nu1\tb\t1580515200\n")
    build(TablesSource(folder), "tables", tmp_path / "out")
    out = io.StringIO()
    inspect(tmp_path / "out", Console(file=out, width=100))
    assert "2020-01-01 to 2020-02-01" in out.getvalue()
    assert "known: no two interactions of a user have the same time" in out.getvalue()


def test_titles_are_shown_as_they_are(write_tables: Callable[..., Path], tmp_path: Path) -> None:
    """Brackets are not markup."""
    folder = write_tables(items="item_id\ttitle\na\t[bold]Alpha[/x]\nc\tGamma\n")
    build(TablesSource(folder), "tables", tmp_path / "out")
    out = io.StringIO()
    inspect(tmp_path / "out", Console(file=out, width=100))
    assert out.getvalue().count("[bold]Alpha[/x]") == 2  # title and text


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50))
def test_bins_hold_every_value_once(values: list[int]) -> None:
    bins = log_bins(np.array(values))
    assert sum(count for _, count in bins) == len(values)
    assert bins[0][1] > 0
    assert bins[-1][1] > 0


@pytest.mark.parametrize(
    ("value", "label"), [(0, "0"), (1, "1"), (2, "2-3"), (3, "2-3"), (4, "4-7"), (1023, "512-1,023")]
)
def test_bin_of_a_value(value: int, label: str) -> None:
    assert log_bins(np.array([value])) == [(label, 1)]


@pytest.mark.parametrize(("share", "bar"), [(0, ""), (1e-9, "▏"), (0.5, "██"), (0.53, "██▏"), (1, "████")])
def test_bar(share: float, bar: str) -> None:
    assert draw_bar(share, cells=4) == bar
