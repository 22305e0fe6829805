from collections.abc import Iterator
from pathlib import Path

import pytest
from source_reading import build_twice, make_source, read_source

from data_tools.build import build
from data_tools.source import SourceError

SHARED = Path(__file__).parents[5] / "shared" / "data" / "ml-100k"
GENRES = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip
INTERACTIONS = [("196", "2", 881250949, 3.0), ("22", "1", 878887116, 1.0)]


def u_item(item_id: str, title: str, date: str, genres: list[str]) -> str:
    flags = "|".join("1" if genre in genres else "0" for genre in GENRES)
    return f"{item_id}|{title}|{date}||http://us.imdb.com/M/title-exact?x|{flags}\n"


def write_100k(folder: Path) -> None:
    (folder / "u.data").write_text("196\t2\t3\t881250949\n22\t1\t1\t878887116\n")
    movies = u_item("1", "Toy Story (1995)", "01-Jan-1995", ["Animation", "Comedy"]) + u_item("2", '"É" x', "", [])
    (folder / "u.item").write_bytes(movies.encode("latin-1"))
    (folder / "u.user").write_text("196|24|M|technician|85711\n")
    (folder / "u.genre").write_text("unknown|0\n")


def write_1m(folder: Path) -> None:
    (folder / "ratings.dat").write_text("196::2::3::881250949\n22::1::1::878887116\n")
    movies = '1::Toy Story (1995)::Animation|Comedy\n2::"É" x::\n'
    (folder / "movies.dat").write_bytes(movies.encode("latin-1"))
    (folder / "users.dat").write_text("196::M::25::15::85711\n")


def write_10m(folder: Path) -> None:
    write_1m(folder)
    movies = (folder / "movies.dat").read_bytes().decode("latin-1")
    (folder / "movies.dat").write_text(movies, encoding="utf-8")
    (folder / "users.dat").unlink()
    (folder / "tags.dat").write_text("15::1::excellent!::1215184630\n")


def write_20m(folder: Path) -> None:
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n196,2,3.0,881250949\n22,1,1.0,878887116\n")
    movies = 'movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n2,"""É"" x",(no genres listed)\n'
    (folder / "movies.csv").write_text(movies, encoding="utf-8")


@pytest.mark.parametrize("write", [write_100k, write_1m, write_10m, write_20m])
def test_published_layouts(tmp_path: Path, write) -> None:
    folder = tmp_path / "ml"
    folder.mkdir()
    write(folder)
    reading = read_source("movielens", "--input", folder)
    assert reading.interactions == INTERACTIONS
    toy_story, other = reading.items
    assert (toy_story.item_id, toy_story.title, toy_story.text) == (
        "1", "Toy Story (1995)", "Toy Story (1995). Animation, Comedy."
    )  # fmt: skip
    assert toy_story.fields == {"year": "1995", "genres": "Animation, Comedy"}
    assert (other.title, other.fields) == ('"É" x', {"year": "", "genres": ""})
    assert [user["user_id"] for user in reading.users] == (["196"] if write in (write_100k, write_1m) else [])
    assert reading.rejects == []
    index = build_twice("movielens", ["--input", folder], tmp_path)
    assert (index.counts.users, index.counts.items, index.counts.interactions) == (2, 2, 2)


def test_users_of_100k_and_1m(tmp_path: Path) -> None:
    for write, age, occupation in ((write_100k, "24", "technician"), (write_1m, "25", "15")):
        folder = tmp_path / write.__name__
        folder.mkdir()
        write(folder)
        [user] = read_source("movielens", "--input", folder).users
        assert user == {
            "user_id": "196", "age": age, "gender": "M", "occupation": occupation, "zip_code": "85711"
        }  # fmt: skip


def test_a_bad_line_is_rejected_with_its_number(tmp_path: Path) -> None:
    write_1m(tmp_path)
    with (tmp_path / "ratings.dat").open("a") as file:
        file.write("1::1::5\n1::1::five::1\n")
    assert read_source("movielens", "--input", tmp_path).reasons() == [
        ("ratings.dat", 3, "wrong_field_count"), ("ratings.dat", 4, "bad_rating")
    ]  # fmt: skip


def test_what_is_missing_or_of_another_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"it needs u\.data or ratings\.dat or ratings\.csv"):
        make_source("movielens", "--input", tmp_path)
    write_20m(tmp_path)
    (tmp_path / "movies.csv").unlink()
    with pytest.raises(SourceError, match=r"movies\.csv is missing"):
        make_source("movielens", "--input", tmp_path)
    (tmp_path / "movies.csv").write_text("movieId,title\n")
    with pytest.raises(SourceError, match=r"movies\.csv, line 1: no column genres; expected movieId, title, genres"):
        make_source("movielens", "--input", tmp_path)
    (tmp_path / "ratings.csv").unlink()
    write_1m(tmp_path)
    (tmp_path / "movies.dat").write_text("1::Toy Story\n")
    with pytest.raises(SourceError, match=r"movies\.dat, line 1: 2 columns, expected 3: item_id, title, genres"):
        make_source("movielens", "--input", tmp_path)


def test_columns_are_read_by_the_names_of_the_header(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("movieId,userId,timestamp,rating\n2,196,881250949,3.0\n1,22,878887116,1.0\n")
    (tmp_path / "movies.csv").write_text("genres,title,movieId\nComedy,A (1995),1\nWar,B,2\n")
    reading = read_source("movielens", "--input", tmp_path)
    assert reading.interactions == INTERACTIONS
    assert [(item.item_id, item.title, item.fields["genres"]) for item in reading.items] == [
        ("1", "A (1995)", "Comedy"), ("2", "B", "War")
    ]  # fmt: skip


def test_a_header_of_other_names_is_refused(tmp_path: Path) -> None:
    write_20m(tmp_path)
    (tmp_path / "ratings.csv").write_text("item,user,rating,timestamp\n2,196,3.0,881250949\n")
    with pytest.raises(SourceError, match=r"ratings\.csv, line 1: no column userId, movieId; expected userId, movieId"):
        make_source("movielens", "--input", tmp_path)


def lines_of(name: str) -> Iterator[list[str]]:
    lines = (SHARED / name).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return (line.split("\t") for line in lines[1:])


def test_100k_equals_recbole_s_copy_of_it(tmp_path: Path) -> None:
    """The original files, made anew from the copy, give the same users, items, interactions and item ids."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent: it may not be distributed with the project")
    movies = (
        u_item(i, f"{title} ({year})", "", genres.split(" ")) for i, title, year, genres in lines_of("ml-100k.item")
    )
    (tmp_path / "u.item").write_bytes("".join(movies).encode("latin-1", "replace"))
    (tmp_path / "u.data").write_text("".join("\t".join(line) + "\n" for line in lines_of("ml-100k.inter")))
    (tmp_path / "u.user").write_text("".join("|".join(line) + "\n" for line in lines_of("ml-100k.user")))
    ours = build(make_source("movielens", "--input", tmp_path), "movielens", tmp_path / "ours")
    theirs = build(make_source("recbole", "--input", SHARED), "recbole", tmp_path / "theirs")
    assert ours.counts == theirs.counts
    assert (ours.counts.users, ours.counts.items, ours.counts.interactions) == (943, 1682, 100_000)
    assert ours.item_ids_sha256 == theirs.item_ids_sha256
    users = [
        next(entry.sha256 for entry in index.files if entry.name == "users-000000.tar") for index in (ours, theirs)
    ]
    assert users[0] == users[1], "the same histories and profiles, byte for byte"
