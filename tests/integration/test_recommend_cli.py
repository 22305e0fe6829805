"""`launch/recommend.py`: what it recommends is what scoring every item, one by one, puts on top."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from commands import ENVIRONMENT, Finished, ForkedCommands
from shard_server import serve
from tiny_world import Tiny, build_shards

from transrec import load_adapters, load_run
from transrec.commands.recommend import main, show
from transrec.config import ConfigError
from transrec.data.content.item_store import ItemStore
from transrec.data.shards.schema import CATALOGUE_FILE, ShardIndex
from transrec.data.shards.shard_folder import ShardFolder
from transrec.runs import run_folder
from transrec.runs.catalogue import Catalogue
from transrec.runs.rebuild import rebuild_for

HISTORIES = {"ann": ["item-3", "item-17", "item-3"], "bob": [f"item-{i}" for i in range(20, 50)], "eve": ["item-0"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    run_dir = tmp_path_factory.mktemp("recommend") / "run"
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}")
    assert finished.code == 0, finished.stderr
    return run_dir


@pytest.fixture(scope="module")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shards(tmp_path_factory.mktemp("catalogue") / "other", users=50, items=60, interactions=600, seed=5)


@pytest.fixture
def histories(tmp_path: Path) -> Path:
    path = tmp_path / "histories.jsonl"
    lines = [json.dumps({"user": user, "history": history}) + "\n" for user, history in HISTORIES.items()]
    path.write_text("".join(lines))
    return path


def recommendations(finished: Finished) -> dict[str, list[dict[str, Any]]]:
    assert finished.code == 0, finished.stderr
    lines = [json.loads(line) for line in finished.stdout.split("\n") if line.startswith("{")]
    return {line["user"]: line["recommendations"] for line in lines}


def brute_force(run: Path, shards: Path, history: list[str], top: int) -> list[tuple[str, float]]:
    """Every item encoded alone, the user alone, every product taken alone."""
    experiment = run_folder.load(run)
    model = rebuild_for(experiment, run, ShardIndex.load(shards)).eval()
    store = ItemStore(ShardFolder(shards), experiment.model.item_encoder.content(), experiment.data.cache)
    item_ids = pq.read_table(shards / CATALOGUE_FILE)["item_id"].to_pylist()
    index_of = {item_id: i for i, item_id in enumerate(item_ids, start=1)}
    with torch.no_grad():
        vectors = [model.encode_items(store.content(np.array([i])))[0] for i in range(1, len(item_ids) + 1)]
        length, width = experiment.model.max_length, experiment.model.width
        newest = [vectors[index_of[item_id] - 1] for item_id in history[-length:]]
        inputs = torch.stack([torch.zeros(width)] * (length - len(newest)) + newest)
        mask = torch.arange(length) >= length - len(newest)
        user = model.encode_users(inputs[None], mask[None])[0]
    scores = {item_id: float(vector @ user) for item_id, vector in zip(item_ids, vectors, strict=True)}
    best = sorted((item_id for item_id in item_ids if item_id not in history), key=lambda i: -scores[i])
    return [(item_id, scores[item_id]) for item_id in best[:top]]


def test_recommends_what_scoring_every_item_puts_on_top(
    commands: ForkedCommands, tiny: Tiny, run: Path, histories: Path
) -> None:
    found = recommendations(commands.run("recommend", "--run", run, "--histories", histories, "--top", "7"))
    assert found.keys() == HISTORIES.keys()
    titles = pq.read_table(tiny.shards / CATALOGUE_FILE).select(["item_id", "title"]).to_pylist()
    for user, history in HISTORIES.items():
        expected = brute_force(run, tiny.shards, history, top=7)
        assert [item["item_id"] for item in found[user]] == [item_id for item_id, _ in expected]
        assert [item["score"] for item in found[user]] == pytest.approx([score for _, score in expected], abs=2e-5)
        assert not {item["item_id"] for item in found[user]} & set(history)
        assert all({"item_id": item["item_id"], "title": item["title"]} in titles for item in found[user])


def test_recommends_items_of_another_catalogue(
    commands: ForkedCommands, run: Path, other_shards: Path, histories: Path
) -> None:
    finished = commands.run("recommend", "--run", run, "--histories", histories, "--catalogue", other_shards)
    for user, items in recommendations(finished).items():
        expected = brute_force(run, other_shards, HISTORIES[user], top=10)
        assert [item["item_id"] for item in items] == [item_id for item_id, _ in expected]


def test_a_catalogue_may_lie_at_a_url(commands: ForkedCommands, run: Path, other_shards: Path, histories: Path) -> None:
    asked = ["--run", run, "--histories", histories, "--catalogue"]
    local = recommendations(commands.run("recommend", *asked, other_shards))
    with serve(other_shards) as server:
        away = recommendations(commands.run("recommend", *asked, server.url))
    assert away == local
    assert away.keys() == HISTORIES.keys()
    assert "items.parquet" in server.requests
    assert not any(name.startswith("users-") for name in server.requests), "users are not needed"


def test_never_runs_out_into_padding(commands: ForkedCommands, run: Path, histories: Path) -> None:
    found = recommendations(commands.run("recommend", "--run", run, "--histories", histories, "--top", "500"))
    for user, history in HISTORIES.items():
        assert len({item["item_id"] for item in found[user]}) == len(found[user]) == 80 - len(set(history))


def test_one_history_shows_a_table(commands: ForkedCommands, tiny: Tiny, run: Path) -> None:
    finished = commands.run("recommend", "--run", run, "--history", "item-3,item-17", "--top", "3")
    assert finished.code == 0, finished.stderr
    rows = [line for line in finished.stdout.splitlines() if " item-" in line]
    expected = brute_force(run, tiny.shards, ["item-3", "item-17"], top=3)
    assert [row.split()[3] for row in rows] == [item_id for item_id, _ in expected]


def test_a_table_keeps_its_lines_in_a_pipe(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    title = "A title of a good many words, as real items have them"
    catalogue = Catalogue(ShardFolder(tiny.shards), ["item-1"], [title])
    show("run", catalogue, ["item-1"], [{"item_id": "item-1", "title": title, "score": 0.5}])
    shown = capsys.readouterr().out.splitlines()
    assert f"  {title}" in shown
    assert any(title in line and "0.5000" in line for line in shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--history", "item-3,item-999"], "unknown item ids: item-999; the catalogue has ids such as item-"),
        (["--history", "item-3,item-999", "--json"], "unknown item ids: item-999; the catalogue has ids such as item-"),
        (["--history", ""], "unknown item ids: "),
        (["--histories", "/nowhere.jsonl"], "cannot read /nowhere.jsonl"),
        (["--history", "item-3", "--catalogue", "/nowhere"], "/nowhere/index.json"),
    ],
)
def test_a_mistake_is_explained(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run", str(run), *arguments]) == 1
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", "line 2: not JSON"),
        ("[1]", 'line 2: expected {"user": …, "history": [item ids]}'),
        ('{"user": 1}', "line 2: expected"),
        ('{"user": "ann", "history": 5}', 'line 2, user "ann": the history must be a list of item ids, found 5'),
        ('{"user": 1, "history": "12"}', 'line 2, user 1: the history must be a list of item ids, found "12"'),
        ('{"user": 1, "history": {"item-3": 1}}', "line 2, user 1: the history must be a list of item ids, found {"),
        (
            '{"user": 1, "history": ["item-3", true]}',
            "line 2, user 1: an item id must be a string or a whole number, found t",
        ),
        ('{"user": 1, "history": [1.5]}', "line 2, user 1: an item id must be a string or a whole number, found 1.5"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_answered(
    run: Path, tmp_path: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "histories.jsonl"
    path.write_text('{"user": 0, "history": ["item-3"]}\n' + line + "\n")
    assert main(["--run", str(run), "--histories", str(path)]) == 1
    printed = capsys.readouterr()
    assert f"{path}, {message}" in printed.err
    assert printed.out == ""


STRANGE = [
    {"user": "ann", "history": ["item-3"]},
    {"user": "bob", "history": ["item-1000", "item-17", "item-1001"]},
    {"user": "eve", "history": ["item-1002"]},
    {"user": "kim", "history": []},
]


def test_unknown_items_are_left_out_told_and_counted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "histories.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in STRANGE))
    assert main(["--run", str(run), "--histories", str(path), "--top", "2"]) == 0
    printed = capsys.readouterr()
    answers = [json.loads(line) for line in printed.out.split("\n") if line]
    assert [(a["user"], len(a["recommendations"]), a.get("unknown")) for a in answers] == [
        ("ann", 2, None),
        ("bob", 2, ["item-1000", "item-1001"]),
        ("eve", 0, ["item-1002"]),
        ("kim", 0, None),
    ]
    assert f'{path}, line 2, user "bob": left out unknown item ids: item-1000, item-1001' in printed.err
    assert "unknown item ids left out: 3; users affected: 2; " in printed.err


def test_unknown_items_stop_before_the_first_answer_if_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "histories.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in STRANGE))
    assert main(["--run", str(run), "--histories", str(path), "--unknown", "error"]) == 1
    printed = capsys.readouterr()
    assert f'error: {path}, line 2, user "bob": unknown item ids: item-1000, item-1001; ' in printed.err
    assert printed.out == ""


def test_items_of_the_history_are_recommended_if_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = load_run(run).recommend(["item-3", "item-17"], top=80, repeats=True)
    assert len(expected) == 80
    asked = ["--run", str(run), "--top", "80", "--repeats"]
    assert main([*asked, "--history", "item-3,item-17", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["recommendations"] == expected
    path = tmp_path / "histories.jsonl"
    path.write_text(json.dumps({"history": ["item-3", "item-17"]}) + "\n")
    assert main([*asked, "--histories", str(path)]) == 0
    assert len(json.loads(capsys.readouterr().out)["recommendations"]) == 80


def test_lines_end_at_a_line_feed_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = ["a\u2028b", "c\x85d", "e\u2029f"]
    lines = [json.dumps({"user": user, "history": ["item-3"]}, ensure_ascii=False) for user in users]
    path = tmp_path / "histories.jsonl"
    path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n\n").encode())
    assert main(["--run", str(run), "--histories", str(path), "--top", "1"]) == 0
    assert [json.loads(line)["user"] for line in capsys.readouterr().out.split("\n") if line] == users


def test_standard_input_is_answered_line_by_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    class Stdin:
        @property
        def buffer(self) -> Iterator[bytes]:
            for user in ("ann", "bob"):
                seen.append(capsys.readouterr().out)
                yield json.dumps({"user": user, "history": ["item-3"]}).encode() + b"\n"

    monkeypatch.setattr("sys.stdin", Stdin())
    assert main(["--run", str(run), "--histories", "-", "--top", "1"]) == 0
    assert "ann" in seen[1], "the first answer did not wait for the second line"
    assert '"user": "bob"' in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--history", "item-3,item-17"],
        ["--history=item-3,item-17"],
        ["--history", '["item-3", "item-17"]'],
        ["--item", "item-3", "--item", "item-17"],
    ],
)
def test_a_history_can_be_written_in_several_ways(
    run: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--run", str(run), *arguments, "--top", "1"]) == 0
    first, second = capsys.readouterr().out.split("\n")[1:3]
    assert first.strip()
    assert second.strip()


@pytest.mark.parametrize("option", ["--history", "--item"])
def test_an_id_may_begin_with_a_dash(run: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", str(run), option, "-x7"]) == 1
    assert "error: unknown item ids: -x7; " in capsys.readouterr().err


@pytest.mark.parametrize("top", ["0", "-3"])
def test_no_results_cannot_be_asked_for(run: Path, top: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--run", str(run), "--history", "item-3", "--top", top])
    assert ended.value.code == 2
    assert "argument --top: " in capsys.readouterr().err
    with pytest.raises(ConfigError, match="top 0: ask for at least 1 result"):
        load_run(run).recommend(["item-3"], top=0)


def test_a_text_is_not_a_history_nor_a_list_of_runs(run: Path) -> None:
    with pytest.raises(ConfigError, match="a history must be a list of item ids, found the string '12'"):
        load_run(run).recommend("12")
    with pytest.raises(ConfigError, match="give a list of runs"):
        load_adapters(str(run))


NASTY = [
    "[/part 1]",
    "[working title]",
    ":smile:",
    "x\ny",
    "[bold]b[/bold]",
    "\x1b[31mred",
    "long " * 1000,
    "[",
    "\\[x]",
]


@pytest.mark.parametrize("title", NASTY)
def test_a_title_is_shown_as_it_is_and_on_one_line(tiny: Tiny, title: str, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = Catalogue(ShardFolder(tiny.shards), ["item-1"], [title])
    show("[run]", catalogue, ["item-1"], [{"item_id": "[/id]", "title": title, "score": 0.5}])
    shown = capsys.readouterr().out
    expected = " ".join(title.replace("\x1b", " ").split())
    assert (expected if len(expected) <= 80 else expected[:79] + "…") in shown
    assert "[run]" in shown
    assert "[/id]" in shown
    assert all(len(line) <= 120 for line in shown.split("\n"))
    assert "\x1b" not in shown


@pytest.mark.parametrize("arguments", [["recommend", "--history", "item-3"], ["evaluate"], ["lineage", "--step", "1"]])
def test_a_reader_that_goes_away_ends_a_command_quietly(run: Path, arguments: list[str]) -> None:
    """As in `transrec recommend … | head -1`."""
    name, *rest = arguments
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "transrec", name, "--run", str(run), *rest]
    ended = subprocess.run(
        command,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=200,
        env=os.environ | ENVIRONMENT,
        check=False,
    )
    os.close(writer)
    assert "Traceback" not in ended.stderr
    assert "Broken" not in ended.stderr
    assert ended.returncode == 141
