"""Two thousand random ids and titles through every command that prints them: none is changed, none is markup."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import Finished, ForkedCommands, json_lines
from tiny_world import Tiny

from data_tools.__main__ import main as data_tools
from transrec.terminal import shortened

ITEMS, USERS, LENGTH = 2000, 50, 40
# Markup of rich, HTML and CSV, escapes of JSON and terminals, line ends that only some libraries know, long texts.
PIECES = [
    *(
        "[/part 1]",
        "[bold]",
        "[",
        "]",
        "\\[",
        ":smile:",
        "<b>",
        "&amp;",
        '"',
        "'",
        ",",
        ";",
        "\t",
        "{}",
        "%s",
        "#",
        "=",
        "-",
    ),
    *(
        "\\u2028",
        "\u2028",
        "\u2029",
        "\x85",
        "\x1b[31m",
        "\x07",
        "\x00",
        "\r",
        "\n",
        "\ufeff",
        "\u202e",
        "\u200b",
        "e\u0301",
    ),
    *("null", "nan", "True", "1e5", "007", "..", "/", "a", "Z", "0", " ", "é", "中文", "🙂", "😀‍👩", "x" * 300),
]


def names(count: int, longest: int, seed: int) -> list[str]:
    """Texts of random pieces, none like another and none empty after its blanks are cut."""
    chosen, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        name = "".join(chosen.choices(PIECES, k=chosen.randint(1, longest))).strip()
        if name:
            found[name] = None
    return list(found)


@pytest.fixture(scope="module")
def item_ids() -> list[str]:
    return names(ITEMS, 3, seed=0)


@pytest.fixture(scope="module")
def titles() -> list[str]:
    return names(ITEMS, 6, seed=1)


@pytest.fixture(scope="module")
def user_ids() -> list[str]:
    return names(USERS, 3, seed=2)


@pytest.fixture(scope="module")
def shards(
    tmp_path_factory: pytest.TempPathFactory, item_ids: list[str], titles: list[str], user_ids: list[str]
) -> Path:
    folder = tmp_path_factory.mktemp("names")
    pq.write_table(pa.table({"item_id": item_ids, "title": titles}), folder / "items.parquet")
    seen = [
        (user, item_ids[(i * LENGTH + step) % ITEMS], step) for i, user in enumerate(user_ids) for step in range(LENGTH)
    ]
    columns = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*seen, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "interactions.parquet")
    tables = ["--items", str(folder / "items.parquet"), "--interactions", str(folder / "interactions.parquet")]
    output = folder / "shards"
    assert data_tools(["build", "--source", "parquet", *tables, "--raw-text", "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, shards: Path, commands: ForkedCommands) -> Path:
    run_dir = tmp_path_factory.mktemp("names") / "run"
    more = [f"data.path={shards}", "data.fraction=1", "train.steps=2"]
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", *more)
    assert_quiet(finished)
    return run_dir


def assert_quiet(finished: Finished) -> None:
    assert finished.code == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    assert "\x1b" not in finished.stdout


def test_shards_hold_every_name_as_it_was(
    shards: Path, item_ids: list[str], titles: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = pq.read_table(shards / "items.parquet")
    assert catalogue["item_id"].to_pylist() == item_ids
    assert catalogue["title"].to_pylist() == titles
    assert data_tools(["verify", str(shards)]) == 0
    assert data_tools(["inspect", str(shards)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_recommendations_name_every_item_and_user_as_they_were(
    run: Path, commands: ForkedCommands, tmp_path: Path, item_ids: list[str], titles: list[str], user_ids: list[str]
) -> None:
    asked = tmp_path / "users.jsonl"
    lines = [{"user": user, "history": item_ids[i::USERS]} for i, user in enumerate(user_ids)]
    asked.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8", newline="\n"
    )
    answered = json_lines(commands.run("recommend", "--run", run, "--histories", asked, "--top", ITEMS))
    assert [line["user"] for line in answered] == user_ids
    for line, answer in zip(lines, answered, strict=True):
        assert "unknown" not in answer
        found = {one["item_id"]: one["title"] for one in answer["recommendations"]}
        others = {item: title for item, title in zip(item_ids, titles, strict=True) if item not in line["history"]}
        assert found == others


def test_two_thousand_random_lines_are_answered_for_what_is_known_of_them(
    run: Path, commands: ForkedCommands, tmp_path: Path, item_ids: list[str]
) -> None:
    chosen, unknown, known = random.Random(3), names(200, 5, seed=4), set(item_ids)
    values = [None, True, 0, -1, 10**30, 1.5, "", "\ud800", [], {"a": [None]}, *unknown]
    lines = []
    for _ in range(2000):
        history = chosen.choices([*unknown, *range(50), *item_ids], k=chosen.randint(0, 6))
        extra = {name: chosen.choice(values) for name in chosen.sample(unknown, k=chosen.randint(0, 2))}
        lines.append({"user": chosen.choice(values), "history": history, **extra})
    asked = tmp_path / "users.jsonl"
    asked.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    finished = commands.run("recommend", "--run", run, "--histories", asked, "--top", 1)
    assert_quiet(finished)
    for line, answer in zip(lines, json_lines(finished), strict=True):
        of_text = list(map(str, line["history"]))
        assert answer["user"] == line["user"]
        assert answer.get("unknown", []) == [item for item in of_text if item not in known]
        assert len(answer["recommendations"]) == any(item in known for item in of_text)


def test_a_table_shows_every_title_on_one_line(
    run: Path, commands: ForkedCommands, item_ids: list[str], titles: list[str]
) -> None:
    history = [f"--item={item_id}" for item_id in item_ids[:500]]
    finished = commands.run("recommend", "--run", run, *history, "--top", 5)
    assert_quiet(finished)
    shown = finished.stdout.split("\n")[1:501]
    assert [line.strip() for line in shown] == [shortened(title) for title in titles[:500]]


@pytest.mark.parametrize("command", ["evaluate", "lineage"])
def test_other_commands_print_names_without_a_traceback(run: Path, commands: ForkedCommands, command: str) -> None:
    more = {"evaluate": [], "lineage": ["--step", 1]}[command]
    assert_quiet(commands.run(command, "--run", run, *more))


def test_lineage_finds_every_user_and_item_by_name(
    run: Path, commands: ForkedCommands, user_ids: list[str], item_ids: list[str]
) -> None:
    for user, item in zip(user_ids[:5], item_ids[:5], strict=True):
        assert_quiet(commands.run("lineage", "--run", run, f"--user={user}"))
        assert_quiet(commands.run("lineage", "--run", run, f"--item={item}"))
