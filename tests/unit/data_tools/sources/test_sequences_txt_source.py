from pathlib import Path

from source_reading import build_twice, read_source


def test_a_user_and_the_items_by_spaces(tmp_path: Path) -> None:
    path = tmp_path / "Beauty.txt"
    path.write_text("1 30 10  20 \n2 10 30\n\n3\n1 5\n")
    reading = read_source("sequences", "--input", path)
    assert reading.interactions == [
        ("1", "30", 1, None), ("1", "10", 2, None), ("1", "20", 3, None), ("2", "10", 1, None), ("2", "30", 2, None)
    ]  # fmt: skip
    assert [(item.item_id, item.title, item.line) for item in reading.items] == [
        ("30", "30", 1), ("10", "10", 1), ("20", "20", 1)
    ]  # fmt: skip
    assert reading.reasons() == [("Beauty.txt", 5, "duplicate_user")]
    index = build_twice("sequences", ["--input", path], tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (2, 3, 5)
