"""Tiny hand-made inputs: a folder of tables, and shards built from it."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_tools.build import build
from data_tools.sources.tables import TablesSource

ITEMS = (
    "item_id\ttitle\ttext\timage\tgenre\n"
    "a\tAlpha\tFirst letter\ta.jpg\tgreek\n"
    "b\tBeta\t\t\tgreek\n"
    "c\tCé\tThird\t\tlatin\n"
)
INTERACTIONS = (
    "user_id\titem_id\ttimestamp\trating\nu1\tb\t20\t4\nu1\ta\t10\t5\nu2\ta\t30\t\nu1\tc\t20\t1.5\nu3\tc\t5\t2\n"
)
USERS = "user_id\tage\nu1\t31\nu3\t47\nnobody\t99\n"
IMPRESSIONS = (
    "user_id\titem_id\ttimestamp\tclick\trequest_id\tposition\n"
    "u1\tb\t25\t0\tr2\t1\nu1\ta\t15\t0\tr1\t1\nu1\tc\t15\t1\tr1\t2\nu3\ta\t9\t\t\t\nu4\tc\t7\t1\t\tfirst\n"
)


def encode_image(kind: str = "JPEG", size: tuple[int, int] = (8, 6), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 100).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def image_bytes() -> Callable[..., bytes]:
    return encode_image


@pytest.fixture
def write_tables(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of tables; each table defaults to the one above, None leaves it out."""

    def write(
        items: str | bytes = ITEMS,
        interactions: str | bytes = INTERACTIONS,
        users: str | bytes | None = USERS,
        impressions: str | bytes | None = None,
    ) -> Path:
        folder = tmp_path / "raw"
        (folder / "images").mkdir(parents=True)
        (folder / "images" / "a.jpg").write_bytes(encode_image())
        tables = {"items": items, "interactions": interactions, "users": users, "impressions": impressions}
        for name, table in tables.items():
            if table is not None:
                data = table.encode() if isinstance(table, str) else table
                (folder / f"{name}.tsv").write_bytes(data)
        return folder

    return write


@pytest.fixture
def shards(write_tables: Callable[..., Path], tmp_path: Path) -> Path:
    """The tables above, built."""
    build(TablesSource(write_tables()), "tables", tmp_path / "shards")
    return tmp_path / "shards"


@pytest.fixture
def shown_shards(write_tables: Callable[..., Path], tmp_path: Path) -> Path:
    """The tables above and the impressions, built."""
    build(TablesSource(write_tables(impressions=IMPRESSIONS)), "tables", tmp_path / "shown")
    return tmp_path / "shown"
