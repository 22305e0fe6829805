import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_reading import build_twice, make_source, read_source

import data_tools.sources.webdataset as module
from data_tools.source import SourceError

PAIRS = "user_id,item_id,timestamp\nu,7,1\nu,dir/0001,2\nv,0003,3\n"
INTERACTIONS = [("u", "7", 1, None), ("u", "dir/0001", 2, None), ("v", "0003", 3, None)]


def write_tar(path: Path, *members: tuple[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path: Path, image_bytes: Callable[..., bytes]) -> Path:
    folder = tmp_path / "web"
    folder.mkdir()
    write_tar(
        folder / "a-000000.tar",
        ("./0000.json", b'\xef\xbb\xbf{"item_id": 7, "title": "Pot", "price": 9.5, "tags": ["a"]}'),
        ("./0000.PNG", image_bytes("PNG")),
        ("./0000.cls", b"3"),
        ("dir/0001.txt", "Café".encode()),
        ("dir/._0001.txt", b"\0\5"),
    )
    write_tar(folder / "a-000001.tar", ("0002.json", b"{nothing"), ("0003.json", b'{"text": "T"}'), ("0003.txt", b"no"))
    (folder / "interactions.csv").write_text(PAIRS)
    return folder


def test_members_of_one_key_are_an_item(folder: Path, tmp_path: Path, image_bytes: Callable[..., bytes]) -> None:
    reading = read_source("webdataset", "--input", folder)
    pot, cafe, third = reading.items
    assert (pot.file, pot.line, pot.item_id, pot.title, pot.text) == ("a-000000.tar", 1, "7", "Pot", "")
    assert (pot.fields, pot.image) == ({"price": "9.5", "tags": '["a"]'}, image_bytes("PNG"))
    assert (cafe.line, cafe.item_id, cafe.text, cafe.image) == (2, "dir/0001", "Café", None)
    assert (third.file, third.line, third.item_id, third.text) == ("a-000001.tar", 2, "0003", "T")
    assert reading.reasons() == [("a-000001.tar", 1, "bad_json")]
    assert reading.interactions == INTERACTIONS


def test_a_key_with_a_dot_is_rejected(folder: Path) -> None:
    write_tar(
        folder / "b.tar",
        ("x.mask.png", b"3"),
        ("x.txt", b"Text"),
        ("v1.5.jpg", b"3"),
        ("v1.5.txt", b"T"),
        ("y.txt", b"Y"),
    )
    reading = read_source("webdataset", "--input", folder)
    assert [(item.item_id, item.line, item.image) for item in reading.items if item.file == "b.tar"] == [
        ("x", 1, None), ("y", 3, None)
    ]  # fmt: skip
    rejected = reading.rejects[-1]
    assert (rejected.file, rejected.line, str(rejected.reason)) == ("b.tar", 2, "no_text")
    assert rejected.detail == "v1.5.jpg: the key is v1, up to the first dot, and has no json, txt or image"


def test_build_with_images(folder: Path, tmp_path: Path) -> None:
    write_tar(folder / "a-000001.tar", ("0003.json", b'{"item_id": "0003", "title": "T", "price": 1, "tags": []}'))
    write_tar(folder / "b.tar", ("dir/0001.json", b'{"price": "", "tags": ""}'), ("dir/0001.txt", b"Text"))
    source = folder / "a-000000.tar"
    with tarfile.open(source) as tar:
        kept = [(info.name, tar.extractfile(info).read()) for info in tar if info.name.startswith("./0000")]
    write_tar(source, *kept)
    counts = build_twice("webdataset", ["--input", folder], tmp_path).counts
    assert (counts.users, counts.items, counts.interactions, counts.images, counts.rejects) == (2, 3, 3, 1, {})


@pytest.mark.parametrize("name", ["interactions.tsv", "interactions.parquet"])
def test_interactions_of_other_formats(folder: Path, name: str) -> None:
    (folder / "interactions.csv").unlink()
    if name.endswith("tsv"):
        (folder / name).write_text(PAIRS.replace(",", "\t"))
    else:
        users, items, times, _ = zip(*INTERACTIONS, strict=True)
        pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), folder / name)
    assert read_source("webdataset", "--input", folder).interactions == INTERACTIONS


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:100],
        lambda data: data[:700],
        lambda data: data[:1024] + b"x" * 5000,  # in place of a header
        lambda data: data.rstrip(b"\0"),
        lambda data: gzip.compress(data),
        lambda data: b"",
    ],
)
def test_a_damaged_tar_is_an_error_that_names_it(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder / "a-000000.tar"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SourceError, match=r"a-000000\.tar is not a complete, uncompressed tar"):
        read_source("webdataset", "--input", folder)


def test_a_member_that_is_too_long_or_no_text_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._LONGEST, "png", 4)
    write_tar(folder / "b.tar", ("5.txt", b"\xff\xfe"), ("6.txt", b"six"))
    assert sorted(read_source("webdataset", "--input", folder).reasons()) == [
        ("a-000000.tar", 1, "bad_image"), ("a-000001.tar", 1, "bad_json"), ("b.tar", 1, "invalid_utf8")
    ]  # fmt: skip


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / "interactions.csv").write_text("user_id,item_id\n")
    with pytest.raises(SourceError, match=r"interactions\.csv: no column timestamp"):
        make_source("webdataset", "--input", folder)
    (folder / "interactions.csv").unlink()
    with pytest.raises(SourceError, match=r"has no interactions\.tsv, interactions\.csv or interactions\.parquet"):
        make_source("webdataset", "--input", folder)
    for path in folder.glob("*.tar"):
        path.unlink()
    with pytest.raises(SourceError, match=r"has no \*\.tar"):
        make_source("webdataset", "--input", folder)
