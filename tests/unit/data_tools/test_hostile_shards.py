"""Malicious sets whose hashes all agree: `verify` names file and member, and training never decodes them."""

import io
import pickle
import random
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shard_sets import edit_index, seal

from data_tools.verify import verify
from transrec.data.examples import DataConfig
from transrec.data.shards.bad_samples import BadSample
from transrec.data.shards.item_shards import ItemShards
from transrec.data.shards.schema import CARD_FILE, ShardSetError
from transrec.data.shards.shard_folder import ShardFolder

ITEMS, USERS = "items-000000.tar", "users-000000.tar"


@pytest.fixture
def copy(synthetic_shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(synthetic_shards, tmp_path / "place" / "copy"))


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def add_member(path: Path, info: tarfile.TarInfo, content: bytes = b"", tar_format: int = tarfile.USTAR_FORMAT) -> None:
    """Append a member, so that the others keep their places."""
    with tarfile.open(path, "a", format=tar_format) as tar:
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **pax: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, {key.replace("_", "."): v for key, v in pax.items()}
    return info


def use(folder: Path) -> None:
    """Read every user and every item, as training does."""
    DataConfig(path=folder).scan(5)
    assert len(list(ItemShards(ShardFolder(folder)))) == 60


MEMBERS = {
    "parent": member("../000000001.json"),
    "absolute": member("/tmp/escaped.json"),
    "symlink": member("000000001.txt", tarfile.SYMTYPE, "/etc/passwd"),
    "symlink with a good name": member("000000061.json", tarfile.SYMTYPE, "/etc/passwd"),
    "hardlink": member("000000061.json", tarfile.LNKTYPE, "000000001.json"),
    "device": member("000000061.json", tarfile.CHRTYPE),
    "fifo": member("000000061.json", tarfile.FIFOTYPE),
    "folder": member("folder", tarfile.DIRTYPE),
    "pax": member("000000061.json", comment="extended"),
    "pax sparse": member("000000061.json", GNU_sparse_major="1", GNU_sparse_minor="0"),
    "gnu sparse": member("000000061.json", tarfile.GNUTYPE_SPARSE),
    "pyd": member("000000001.pyd"),
    "pickle": member("000000001.pickle"),
    "npy": member("000000001.npy"),
    "pth": member("000000001.pth"),
    "twice": member("000000001.json"),
}


@pytest.mark.parametrize("kind", MEMBERS)
@pytest.mark.parametrize("shard", [ITEMS, USERS])
def test_a_member_that_has_no_place_is_named_and_never_decoded(copy: Path, shard: str, kind: str) -> None:
    marker = copy.parent / "executed"
    before = {path: path.read_bytes() for path in copy.iterdir() if path.name not in (shard, "index.json")}
    payload = b"" if MEMBERS[kind].type in (tarfile.SYMTYPE, tarfile.LNKTYPE) else pickle.dumps(Bomb(marker))
    tar_format = tarfile.PAX_FORMAT if "pax" in kind else tarfile.USTAR_FORMAT
    add_member(copy / shard, MEMBERS[kind].replace(deep=True), payload, tar_format)
    seal(copy, shard)
    problems = verify(copy)
    assert problems
    assert {problem.file for problem in problems} == {shard}
    name = "././@PaxHeader" if "pax" in kind else MEMBERS[kind].name
    assert f"member {name!r} does not belong in a shard" in str(problems[0])
    use(copy)
    assert sorted(path.name for path in copy.parent.iterdir()) == ["copy"]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not Path("/tmp/escaped.json").exists()


def replace_in_table(folder: Path, name: str, column: str, value: Any) -> None:
    table = pq.read_table(folder / name)
    place = table.schema.get_field_index(column)
    values = [value, *table[column].to_pylist()[1:]]
    pq.write_table(
        table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type)),
        folder / name,
    )
    seal(folder, name)


@pytest.mark.parametrize(("table", "column"), [("items.parquet", "shard"), ("user_blocks.parquet", "shard")])
@pytest.mark.parametrize("value", ["../../../etc/passwd", "/dev/zero", "pipe:touch executed", None])
def test_a_table_that_points_out_of_the_set_is_refused(copy: Path, table: str, column: str, value: str | None) -> None:
    replace_in_table(copy, table, column, value)
    assert table in {problem.file for problem in verify(copy)}
    with pytest.raises(ShardSetError):
        use(copy)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("items.parquet", "json_offset", -1),
        ("items.parquet", "json_bytes", 2**62),
        ("items.parquet", "json_bytes", None),
        ("items.parquet", "index", 0),
        ("user_blocks.parquet", "offset", 2**62),
        ("user_blocks.parquet", "bytes", -5),
        ("user_blocks.parquet", "crc32", None),
        ("user_blocks.parquet", "lengths", []),
        ("user_blocks.parquet", "lengths", None),
    ],
)
def test_a_table_that_points_nowhere_is_refused(copy: Path, table: str, column: str, value: Any) -> None:
    replace_in_table(copy, table, column, value)
    assert verify(copy)
    with pytest.raises(ShardSetError):
        use(copy)


@pytest.mark.parametrize("name", ["../copy/items-000000.tar", "/etc/passwd", "pipe:touch executed", "a;touch executed"])
def test_an_index_that_names_no_plain_file_is_refused(copy: Path, name: str) -> None:
    edit_index(copy, lambda index: index["files"][0].update(name=name))
    for read in (verify, use):
        with pytest.raises(ShardSetError, match=r"index\.json is malformed"):
            read(copy)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    "content", [b"[" * 10**5, b"{}x", b"[1]", b'{"text": {"a": 1}}', b"\xff", b'{"text": ' + b"9" * 5000 + b"}"]
)
def test_an_item_that_is_no_record_is_a_bad_sample(copy: Path, content: bytes) -> None:
    data = (copy / ITEMS).read_bytes()
    (copy / ITEMS).write_bytes(data + content)
    for column, value in (
        ("json_offset", len(data)),
        ("json_bytes", len(content)),
        ("json_crc32", zlib.crc32(content)),
    ):
        replace_in_table(copy, "items.parquet", column, value)
    seal(copy, ITEMS)
    with pytest.raises(BadSample, match="item 1 cannot be read"):
        list(ItemShards(ShardFolder(copy)))


# Accidental damage: no hash agrees


def used_bytes(folder: Path) -> dict[str, list[range]]:
    """The parts of each file that training reads. Not among them: headers and padding of the tars, rejects.jsonl."""
    parts = {
        name: [range((folder / name).stat().st_size)] for name in ("index.json", "items.parquet", "user_blocks.parquet")
    }
    for table, prefix in (("items.parquet", "json_"), ("user_blocks.parquet", "")):
        for row in pq.read_table(folder / table).to_pylist():
            start = row[f"{prefix}offset"]
            parts.setdefault(row["shard"], []).append(range(start, start + row[f"{prefix}bytes"]))
    return parts


def problems_of(folder: Path) -> str:
    """The files that `verify` or the reading of the index complains about."""
    try:
        return " ".join(problem.file for problem in verify(folder))
    except ShardSetError as error:
        return str(error)


def test_fifty_flipped_bits_are_found(copy: Path) -> None:
    """`verify` finds the damage anywhere, training wherever it reads."""
    rng = random.Random(0)
    used, met = used_bytes(copy), 0
    names = sorted(path.name for path in copy.iterdir() if path.stat().st_size and path.name != CARD_FILE)
    for turn in range(50):
        name = names[turn % len(names)]
        data = (copy / name).read_bytes()
        place, bit = rng.randrange(len(data)), rng.randrange(8)
        (copy / name).write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        assert name in problems_of(copy), (name, place, bit)
        if any(place in part for part in used.get(name, [])):
            met += 1
            with pytest.raises(ShardSetError, match=name):
                use(copy)
        (copy / name).write_bytes(data)
    assert met > 25
    assert verify(copy) == []


def test_every_bit_of_the_index_counts(copy: Path) -> None:
    path = copy / "index.json"
    data = path.read_bytes()
    rng = random.Random(1)
    for place in rng.sample(range(len(data) - 1), 300):  # the last is a line feed: one more is no other index
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
        with pytest.raises(ShardSetError, match=r"index\.json"):
            ShardFolder(copy)


@pytest.mark.parametrize("kind", ["items", "users"])
def test_a_tar_cut_off_anywhere_is_found(copy: Path, kind: str) -> None:
    rng = random.Random(2)
    shards = sorted(copy.glob(f"{kind}-*.tar"))
    used = used_bytes(copy)
    for turn in range(20):
        shard = shards[turn % len(shards)]
        data = shard.read_bytes()
        length = rng.randrange(len(data))
        shard.write_bytes(data[:length])
        assert shard.name in problems_of(copy), length
        if any(length < part.stop for part in used[shard.name]):
            with pytest.raises(ShardSetError, match=shard.name):
                use(copy)
        shard.write_bytes(data)


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 11 + b"\xf0"])
def test_a_member_of_an_impossible_size_is_refused(copy: Path, size: bytes) -> None:
    data = bytearray((copy / ITEMS).read_bytes())
    data[124:136] = size
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    (copy / ITEMS).write_bytes(data)
    seal(copy, ITEMS)
    [problem] = verify(copy)
    assert problem.file == ITEMS
    assert "000000001.json" in problem.message


def test_what_hides_behind_the_end_of_a_tar_is_found(copy: Path) -> None:
    with (copy / ITEMS).open("ab") as file:
        file.write(bytes(10240) + b"hidden")
    seal(copy, ITEMS)
    [problem] = verify(copy)
    assert (problem.file, problem.message) == (ITEMS, "data follows the end of the tar")


def test_a_set_as_it_was_built_is_well(copy: Path) -> None:
    assert verify(copy) == []
    use(copy)
