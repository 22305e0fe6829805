"""A next-item run finds candidates, and a ranking model orders them: in Python, and in `launch/recommend.py`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ForkedCommands
from portable_runs import untrained
from tiny_world import Tiny, build_shards
from untrained_runs import export_run, make

from transrec import Query, load_run
from transrec.commands.recommend import LINES_AT_ONCE, main
from transrec.config import ConfigError, validate
from transrec.experiment import Experiment
from transrec.runs.recommender import Recommender

HISTORY = ["item-3", "item-17", "item-3"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, commands: ForkedCommands) -> Path:
    """A ranking model of items' texts and the history of ids."""
    folder = tmp_path_factory.mktemp("two_stages")
    values = {
        "data": {
            "path": str(tiny.shards),
            "workers": 0,
            "cache": str(folder / "cache"),
            "examples": {"name": "impressions", "exposures": {"name": "rated"}},
            "split": {"name": "last_share", "valid": 0.25, "test": 0.25},
        },
        "model": {
            "name": "ranking_model",
            "width": 8,
            "max_length": 6,
            "item_encoder": {"name": "text", "backbone": str(tiny.backbone), "max_tokens": 16},
            "features": {"item": {"of": "item_id", "width": 4}},
            "id_interest": {"name": "din"},
        },
        "train": {"steps": 2, "batch_size": 32, "evaluate_every": "never", "checkpoint_every": "never"},
        "optimizer": {"lr": {"backbone": 2e-4, "head": 1e-3, "embedding": 2e-2}},
        "evaluation": {"metrics": ["AUC"], "baselines": []},
    }
    values["train"]["monitor"] = "AUC"
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    finished = commands.run("train", "--config", config, f"run_dir={folder / 'ranker'}")
    assert finished.code == 0, finished.stderr
    return folder / "ranker"


@pytest.fixture(scope="module")
def finder(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """A next-item run on the shards of the ranking model."""
    run = tmp_path_factory.mktemp("finder") / "finder"
    untrained(run, tiny)
    return run


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """A next-item run on other shards, with 20 items that the ranking model's lack."""
    folder = tmp_path_factory.mktemp("wider")
    untrained(folder / "wider", tiny, build_shards(folder / "shards", users=50, items=100, interactions=900, seed=5))
    return folder / "wider"


@pytest.fixture(scope="module")
def narrower(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """A next-item run on other shards, without 20 items of the ranking model's."""
    folder = tmp_path_factory.mktemp("narrower")
    untrained(folder / "narrower", tiny, build_shards(folder / "shards", users=50, items=60, interactions=900, seed=6))
    return folder / "narrower"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    folder = tmp_path_factory.mktemp("task")
    labels = "".join(f"user-{user}\t{'ab'[user % 2]}\n" for user in range(200))
    (folder / "labels.tsv").write_text(f"user_id\ttarget\n{labels}")
    values = make(folder / "task", tiny.shards).model_dump(mode="json")
    values["model"]["objective"] = {"name": "classification"}
    values["data"]["examples"] = {"name": "task", "targets": {"name": "file", "path": str(folder / "labels.tsv")}}
    values["train"]["monitor"] = values["evaluation"]["metrics"][0]
    export_run(validate(Experiment, values))
    return folder / "task"


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["item_id"] for row in rows]


def lines_of(folder: Path, *lines: dict[str, Any]) -> str:
    path = folder / "users.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return str(path)


def answers(capsys: Capture, *arguments: object) -> list[dict[str, Any]]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return [json.loads(line) for line in printed.out.split("\n") if line]


def refusal(capsys: Capture, *arguments: object) -> str:
    """The message of a command that printed no answer."""
    assert main([str(argument) for argument in arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


# In Python


def test_the_ranking_model_orders_what_the_first_stage_finds(ranker: Path, finder: Path) -> None:
    first, second = load_run(finder), load_run(ranker)
    found = second.recommend(HISTORY, top=20, first_stage=first, first_stage_top=20)
    candidates = ids(first.recommend(HISTORY, top=20))
    assert found == second.recommend(HISTORY, top=20, candidates=candidates)
    assert sorted(ids(found)) == sorted(candidates)
    assert ids(found) != candidates
    assert not {*ids(found)} & {*HISTORY}
    assert second.recommend(HISTORY, top=3, first_stage=first, first_stage_top=20) == found[:3]
    assert ids(second.recommend(HISTORY, top=100, first_stage=first)) == ids(second.recommend(HISTORY, top=100)), (
        "by default, it finds more items than this catalogue has"
    )


def test_exclusions_and_filters_apply_before_items_are_counted(ranker: Path, finder: Path) -> None:
    first, second = load_run(finder), load_run(ranker)
    best = first.recommend(HISTORY, top=12)
    some = [row["title"] for row in best[2:]]
    query = Query(HISTORY, 5, exclude=ids(best[:5]), filters={"title": some})
    (found,) = second.recommend_many([query], first_stage=first, first_stage_top=5)
    assert sorted(ids(found)) == sorted(ids(best[5:10]))


def test_items_of_the_history_are_found_and_ranked_if_they_may_repeat(
    ranker: Path, finder: Path, tmp_path: Path, capsys: Capture
) -> None:
    first, second = load_run(finder), load_run(ranker)
    assert len(second.recommend(HISTORY, top=80)) == 78
    every = second.recommend(HISTORY, top=80, repeats=True)
    assert len(every) == 80
    assert [row for row in every if row["item_id"] not in HISTORY] == second.recommend(HISTORY, top=80)
    assert ids(second.recommend(HISTORY, top=80, repeats=True, first_stage=first)) == ids(every)
    users = lines_of(tmp_path, {"user": "ann", "history": HISTORY})
    asked = ["--run", ranker, "--first-stage", finder, "--top", 80, "--histories", users]
    for arguments, count in (([], 78), (["--repeats"], 80)):
        (line,) = answers(capsys, *asked, *arguments)
        assert len(line["recommendations"]) == count


def test_many_queries_share_passes_of_both_models(ranker: Path, finder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = load_run(finder), load_run(ranker)
    histories = [[f"item-{(7 * i + j) % 80}" for j in range(1 + i % 5)] for i in range(50)]
    alone = [second.recommend(history, first_stage=first, first_stage_top=20) for history in histories]
    passes: dict[str, int] = {}
    for run in (first, second):
        scorer = run._answers.scorer

        def counted(asked: Any, name: str = run.name, scorer: Any = scorer) -> Any:
            passes[name] = passes.get(name, 0) + 1
            return scorer(asked)

        monkeypatch.setitem(run._answers.__dict__, "scorer", counted)
    together = second.recommend_many([Query(history) for history in histories], first, 20)
    assert passes == {"finder": 1, "ranker": 1}
    for found, expected in zip(together, alone, strict=True):
        assert {row["item_id"]: row["probability"] for row in found} == pytest.approx(
            {row["item_id"]: row["probability"] for row in expected}, abs=2e-6
        )


def test_items_are_handed_over_by_id(ranker: Path, wider: Path, narrower: Path) -> None:
    second = load_run(ranker)
    for place in (wider, narrower):
        first = load_run(place)
        handed = [i for i in ids(first.recommend(HISTORY, top=40)) if i in second.catalogue.index_of]
        found = second.recommend(HISTORY, top=40, first_stage=first, first_stage_top=40)
        assert sorted(ids(found)) == sorted(handed)
        assert [row["title"] for row in found] == [second.catalogue.title(i) for i in ids(found)]
    with pytest.raises(ConfigError, match=r"narrower: unknown item ids: item-70; the catalogue has ids such as"):
        second.recommend(["item-3", "item-70"], first_stage=load_run(narrower))
    with pytest.raises(ConfigError, match=r"wider: a history needs at least one item"):
        second.recommend([], first_stage=load_run(wider))


def test_what_cannot_be_combined_is_refused(ranker: Path, finder: Path, task: Path) -> None:
    first, second = load_run(finder), load_run(ranker)
    with pytest.raises(ConfigError, match=r"finder is not a ranking model: only a ranking model has a first stage"):
        first.recommend(HISTORY, first_stage=first)
    with pytest.raises(ConfigError, match=r"ranker is a ranking model, so it cannot be a first stage: name a run that"):
        second.recommend(HISTORY, first_stage=second)
    with pytest.raises(ConfigError, match=r"task predicts the targets of a task, so it cannot be a first stage: name"):
        second.recommend(HISTORY, first_stage=load_run(task))
    with pytest.raises(ConfigError, match="`candidates` and a first stage, which finds candidates, exclude each other"):
        second.recommend(HISTORY, candidates=["item-1"], first_stage=first)
    with pytest.raises(ConfigError, match="the first stage finds 5 items, fewer than the 6 asked for: raise first_sta"):
        second.recommend(HISTORY, top=6, first_stage=first, first_stage_top=5)
    with pytest.raises(ConfigError, match=r"first_stage_top 2\.5: expected a whole number"):
        second.recommend(HISTORY, top=1, first_stage=first, first_stage_top=2.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"a first stage is a run from load_run, found '.*finder'"):
        second.recommend(HISTORY, first_stage=str(finder))  # type: ignore[arg-type]


# The command


def test_a_file_is_answered_as_in_python(ranker: Path, finder: Path, tmp_path: Path, capsys: Capture) -> None:
    users = lines_of(tmp_path, {"user": "ann", "history": HISTORY}, {"user": "kim", "history": []})
    asked = ["--run", ranker, "--first-stage", finder, "--first-stage-top", 20, "--top", 4, "--histories", users]
    ann, kim = answers(capsys, *asked)
    first, second = load_run(finder), load_run(ranker)
    expected = second.recommend(HISTORY, top=4, first_stage=first, first_stage_top=20)
    assert ids(ann["recommendations"]) == ids(expected)
    assert [row["probability"] for row in ann["recommendations"]] == pytest.approx(
        [row["probability"] for row in expected], abs=2e-6
    )
    assert kim == {"user": "kim", "note": "first stage: the history is empty", "recommendations": []}


def test_a_file_is_answered_in_batches(
    ranker: Path, finder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    many = Recommender.recommend_many

    def counted(self: Recommender, queries: Any, *rest: Any) -> Any:
        asked.append((self.name, len(queries)))
        return many(self, queries, *rest)

    monkeypatch.setattr(Recommender, "recommend_many", counted)
    users = lines_of(tmp_path, *({"user": i, "history": [f"item-{i % 80}"]} for i in range(LINES_AT_ONCE + 1)))
    found = answers(capsys, "--run", ranker, "--first-stage", finder, "--histories", users)
    assert [line["user"] for line in found] == list(range(LINES_AT_ONCE + 1))
    assert asked == [("finder", LINES_AT_ONCE), ("ranker", LINES_AT_ONCE), ("finder", 1), ("ranker", 1)]


def test_ids_that_one_of_the_runs_lacks_are_listed(
    ranker: Path, wider: Path, narrower: Path, tmp_path: Path, capsys: Capture
) -> None:
    first, second = load_run(wider), load_run(ranker)
    history = ["item-3", "item-90", "gone"]
    found = ids(first.recommend(["item-3", "item-90"], top=90))
    lacking = [item_id for item_id in found if item_id not in second.catalogue.index_of]
    assert lacking, "the test needs an item that only the first stage has"
    asked = ["--run", ranker, "--first-stage-top", 90, "--top", 90, "--histories"]
    (line,) = answers(capsys, *asked, lines_of(tmp_path, {"user": "ann", "history": history}), "--first-stage", wider)
    assert line["unknown"] == ["item-90", "gone", *lacking]
    assert sorted(ids(line["recommendations"])) == sorted({*found} - {*lacking})

    users = lines_of(tmp_path, {"user": "ann", "history": ["item-3", "item-70"]}, {"user": 2, "history": ["item-70"]})
    ann, other = answers(capsys, *asked, users, "--first-stage", narrower)
    assert (ann["unknown"], other["unknown"]) == (["item-70"], ["item-70"]), "the first stage did not read it"
    assert (len(ann["recommendations"]), other["recommendations"]) == (59, [])


def test_ids_that_one_of_the_runs_lacks_stop_the_command_if_asked(
    ranker: Path, wider: Path, narrower: Path, tmp_path: Path, capsys: Capture
) -> None:
    asked = ["--run", ranker, "--unknown", "error", "--histories"]
    users = lines_of(tmp_path, {"user": "ann", "history": ["item-3"]})
    message = refusal(capsys, *asked, users, "--first-stage", wider)
    assert "wider has 20 items that the catalogue of " in message
    assert "ranker lacks, such as item-" in message
    users = lines_of(tmp_path, {"user": "ann", "history": ["item-3"]}, {"user": "eve", "history": ["item-70"]})
    message = refusal(capsys, *asked, users, "--first-stage", narrower)
    assert 'line 2, user "eve", first stage: unknown item ids: item-70; ' in message
    users = lines_of(tmp_path, {"user": "ann", "history": []})
    assert "a history needs at least one item" in refusal(capsys, *asked, users, "--first-stage", narrower)


def test_one_history_is_answered_and_what_is_left_out_is_told(ranker: Path, wider: Path, capsys: Capture) -> None:
    asked = ["--run", str(ranker), "--first-stage", str(wider), "--history", "item-3,item-17", "--top", "3"]
    expected = load_run(ranker).recommend(["item-3", "item-17"], top=3, first_stage=load_run(wider))
    assert main([*asked, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["results"][0]["recommendations"] == expected
    assert "wider has 20 items that the catalogue of" in printed.err
    assert main(asked) == 0
    printed = capsys.readouterr()
    assert "probability" in printed.out
    rows = [line for line in printed.out.splitlines() if " item-" in line]
    assert [row.split()[3] for row in rows] == ids(expected)


def test_a_catalogue_is_that_of_both_runs(
    ranker: Path, finder: Path, wider: Path, tmp_path: Path, capsys: Capture
) -> None:
    shards = load_run(wider).catalogue.folder.place
    users = lines_of(tmp_path, {"user": "ann", "history": ["item-90"]})
    asked = ["--run", ranker, "--first-stage", finder, "--catalogue", shards, "--top", 99, "--histories", users]
    (line,) = answers(capsys, *asked)
    assert "unknown" not in line
    assert {*ids(line["recommendations"])} == {f"item-{i}" for i in range(100)} - {"item-90"}


@pytest.mark.parametrize("place", ["file", "standard input"])
def test_a_line_with_candidates_is_named(
    ranker: Path, finder: Path, place: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"user": "ann", "history": HISTORY}, {"user": "eve", "history": HISTORY, "candidates": ["item-1"]}]
    asked = ["--run", str(ranker), "--first-stage", str(finder), "--histories"]
    expected = 'line 2, user "eve": `candidates` and a first stage, which finds candidates, exclude each other'
    if place == "file":
        assert expected in refusal(capsys, *asked, lines_of(tmp_path, *lines))
        return
    seen: list[str] = []

    class Stdin:
        @property
        def buffer(self) -> Iterator[bytes]:
            for line in lines:
                seen.append(capsys.readouterr().out)
                yield json.dumps(line).encode() + b"\n"

    monkeypatch.setattr("sys.stdin", Stdin())
    assert main([*asked, "-"]) == 1
    assert '"ann"' in seen[1], "each line is answered before the next is read"
    assert f"standard input, {expected}" in capsys.readouterr().err


def test_what_the_command_cannot_combine_is_refused(ranker: Path, finder: Path, task: Path, capsys: Capture) -> None:
    history = ["--history", "item-3"]
    for run, first_stage, message in [
        (finder, finder, "finder is not a ranking model: only a ranking model has a first stage"),
        (ranker, ranker, "ranker is a ranking model, so it cannot be a first stage"),
        (ranker, task, "task predicts the targets of a task, so it cannot be a first stage"),
    ]:
        assert message in refusal(capsys, "--run", run, "--first-stage", first_stage, *history)
    many = ["--run", ranker, "--first-stage", finder, "--top", 101, *history]
    assert "the first stage finds 100 items, fewer than the 101 asked for: raise " in refusal(capsys, *many)
    with pytest.raises(SystemExit):
        main(["--run", str(ranker), "--first-stage-top", "20", *history])
    assert "--first-stage-top needs --first-stage" in capsys.readouterr().err
