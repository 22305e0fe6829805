import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_tools.__main__ import main


def test_build_verify_inspect(
    write_tables: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    interactions = "user_id\titem_id\ttimestamp\nu\ta\t1\nu\tzz\t2\n"
    folder = write_tables(interactions=interactions)
    assert main(["build", "--source", "tables", "--input", str(folder), "--output", out]) == 0
    text = capsys.readouterr().out
    assert "1 users, 3 items (1 with image), 1 interactions" in text
    assert "unknown_item       1" in text
    assert main(["verify", out]) == 0
    assert capsys.readouterr().out == f"{out}: no problems found; 1 users, 3 items\n"
    assert main(["inspect", out]) == 0
    assert capsys.readouterr().out.startswith("1 users, 3 items, 1 interactions\n")


@pytest.mark.parametrize("date", ["2024-05-31", "2024-05-31T10:00:00Z", "31.05.2024", "5/31/24 10:00"])
def test_a_date_where_a_number_is_expected_names_the_option_that_reads_it(
    write_tables: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], date: str
) -> None:
    folder, out = write_tables(interactions=f"user_id\titem_id\ttimestamp\nu\ta\t{date}\n"), str(tmp_path / "out")
    assert main(["build", "--source", "tables", "--input", str(folder), "--output", out]) == 1
    assert (
        f"timestamp is {date!r}, a time written as text: read it with --source csv and its format, such as "
        "--time-format iso, or '%d.%m.%Y %H:%M'"
    ) in capsys.readouterr().err
    given = ["--interactions", str(folder / "interactions.tsv"), "--items", str(folder / "items.tsv")]
    assert main(["build", "--source", "csv", *given, "--output", out]) == 1
    assert ": give its format, such as --time-format iso, or '%d.%m.%Y %H:%M'" in capsys.readouterr().err


def test_columns_of_interactions_that_nothing_reads_are_listed_once(
    write_tables: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tables(interactions="user_id\titem_id\tprice\ttimestamp\tbrand\nu\ta\t9\t1\tx\nv\ta\t9\t1\tx\n")
    command = ["build", "--source", "tables", "--input", str(folder), "--output"]
    assert main([*command, str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("columns of interactions that are not read: brand, price\n") == 1
    assert main([*command, str(tmp_path / "again"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["build"]["not_read"] == ["brand", "price"]


def test_items_that_a_filter_leaves_without_interactions_are_counted(
    write_tables: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{user}\t{item}\t1\n" for user, item in ["ua", "ub", "va", "vb", "wc"])
    command = [
        "build",
        "--source",
        "tables",
        "--input",
        str(write_tables(interactions=f"user_id\titem_id\ttimestamp\n{rows}")),
    ]
    assert main([*command, "--output", str(tmp_path / "core"), "--k-core", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 users, 3 items" in text
    assert "items without interactions, which stay in the catalogue: 1\n" in text
    assert main([*command, "--output", str(tmp_path / "all")]) == 0
    assert "items without interactions" not in capsys.readouterr().out


def test_items_alone_are_built_and_inspected(
    write_tables: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_tables(interactions="user_id\titem_id\ttimestamp\n"), str(tmp_path / "out")
    assert main(["build", "--source", "tables", "--input", str(folder), "--output", out]) == 0
    assert "no interactions: this is a catalogue of items, for recommending and exporting" in capsys.readouterr().out
    assert main(["inspect", out]) == 0
    text = capsys.readouterr().out
    assert text.startswith("0 users, 3 items, 0 interactions\n")
    assert "Alpha" in text
    assert main(["inspect", out, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["density"], found["history_length"]["longest"], found["first_timestamp"]) == (0, 0, None)


def test_each_prints_one_document_with_its_numbers(
    write_tables: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    folder = write_tables(interactions="user_id\titem_id\ttimestamp\nu\ta\t1\nu\tb\t2\nu\tzz\t3\n")
    assert main(["build", "--source", "tables", "--input", str(folder), "--output", out, "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert (built["output"], built["counts"]["items"], built["counts"]["rejects"]) == (out, 3, {"unknown_item": 1})
    assert main(["verify", out, "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert verified == {"place": out, "whole": True, "problems": [], "counts": built["counts"]}
    assert main(["inspect", out, "--json"]) == 0
    inspected = json.loads(capsys.readouterr().out)
    assert inspected["counts"] == built["counts"]
    lengths = {"median": 2.0, "mean": 2.0, "longest": 2, "users_by_length": {"2-3": 1}}
    assert inspected["history_length"] == lengths
    assert inspected["items_by_interactions"] == {"0": 1, "1": 2}
    (tmp_path / "out" / "rejects.jsonl").write_text("x")
    assert main(["verify", out, "--json"]) == 1
    damaged = json.loads(capsys.readouterr().out)
    assert not damaged["whole"]
    assert [problem["file"] for problem in damaged["problems"]] == ["rejects.jsonl"]


def test_strict_ends_with_a_message(
    write_tables: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tables(items="item_id\ttitle\na\tA\na\tB\n")
    command = ["build", "--source", "tables", "--input", str(folder), "--output", str(tmp_path / "out"), "--strict"]
    assert main(command) == 1
    assert capsys.readouterr().err == "error: items.tsv, line 3: duplicate_item: item 'a' is already on line 2\n"


def test_verify_names_the_bad_file(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shards / "rejects.jsonl").write_text("x")
    assert main(["verify", str(shards)]) == 1
    assert capsys.readouterr().err == "rejects.jsonl: has 1 bytes, but index.json lists 0\n"


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_folder_that_is_no_set_of_shards(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(tmp_path)]) == 1
    assert "index.json" in capsys.readouterr().err


def test_each_source_has_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["build", "--source", "synthetic", "--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    assert "--seed" in text
    assert "--input" not in text


def test_help_without_a_source_shows_what_each_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["build", "--help"])
    assert raised.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--source tables --input DIR" in text
    assert "--source mind --input DIR [DIR ...]" in text
    assert "--source transrec_tsv --users FILE --items FILE [--images DIR]" in text


def test_a_failure_names_the_rejects(
    write_tables: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = write_tables(interactions="user_id\titem_id\ttimestamp\nu\tzz\t1\n"), tmp_path / "out"
    assert main(["build", "--source", "tables", "--input", str(folder), "--output", str(out)]) == 1
    assert capsys.readouterr().err == (
        "error: the source has no usable interaction (1 rejected, such as interactions.tsv, line 2: unknown_item: "
        f"item 'zz' is not in the catalogue)\nrows rejected before the error: {out}.partial/rejects.jsonl\n"
    )


@pytest.mark.parametrize("size", ["0", "-1", "many"])
def test_shard_bytes_must_be_positive(size: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["build", "--source", "sample", "--output", str(tmp_path / "out"), "--shard-bytes", size])
    assert raised.value.code == 2
