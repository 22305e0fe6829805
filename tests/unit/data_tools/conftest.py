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
        items: str | bytes = ITEMS, interactions: str | bytes = INTERACTIONS, users: str | bytes | None = USERS
    ) -> Path:
        folder = tmp_path / "raw"
        (folder / "images").mkdir(parents=True)
        (folder / "images" / "a.jpg").write_bytes(encode_image())
        for name, table in (("items", items), ("interactions", interactions), ("users", users)):
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
