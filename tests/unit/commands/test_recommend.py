"""Answers to a file of users, printed by `recommend` for a run that was never trained."""

import json
from typing import Any

import pytest
from portable_runs import untrained
from tiny_world import Tiny

from transrec.commands.recommend import answer, one_history, parse
from transrec.config import ConfigError
from transrec.runs.answers.click_scores import Visit
from transrec.runs.histories import read_histories
from transrec.runs.recommender import Recommender


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Recommender:
    return untrained(tmp_path_factory.mktemp("recommend") / "run", tiny)


def answered(
    recommender: Recommender, capsys: pytest.CaptureFixture[str], *lines: dict[str, Any], top: int = 2, **more: str
) -> list[dict[str, Any]]:
    users = list(read_histories([json.dumps(line).encode() for line in lines], "users.jsonl"))
    answer(recommender, users, top, more.get("unknown", "skip"), {})
    return [json.loads(line) for line in capsys.readouterr().out.split("\n") if line]


def items(line: dict[str, Any]) -> list[str]:
    return [row["item_id"] for row in line["recommendations"]]


def test_unknown_candidates_are_left_out_and_the_file_goes_on(
    recommender: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    one, none, all_unknown, last = answered(
        recommender,
        capsys,
        {"history": ["item-1"], "candidates": ["gone", "item-2"]},
        {"history": ["item-1"], "candidates": []},
        {"history": ["item-1", "lost"], "candidates": ["gone"]},
        {"history": ["item-1"], "candidates": ["item-3", 4]},
    )
    assert (items(one), one["unknown"]) == (["item-2"], ["gone"])
    assert (items(none), "unknown" in none) == ([], False)
    assert (items(all_unknown), all_unknown["unknown"]) == ([], ["lost", "gone"])
    assert items(last) == ["item-3"]


def test_unknown_candidates_stop_before_the_first_answer_if_asked(
    recommender: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"user": "ann", "history": ["item-1"]}, {"user": "eve", "history": ["item-1"], "candidates": ["gone"]}]
    with pytest.raises(ConfigError, match=r'line 2, user "eve", candidates: unknown item ids: gone'):
        answered(recommender, capsys, *lines, unknown="error")
    assert capsys.readouterr().out == ""


def test_a_visit_that_is_refused_is_named_before_the_first_answer(
    recommender: Recommender, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Recommender, visit: Visit) -> None:
        if visit.context:
            raise ConfigError("the context has a column 'devcie'")

    monkeypatch.setattr(Recommender, "check_visit", refuse)
    lines = [{"user": "ann", "history": ["item-1"]}, {"user": "eve", "history": [], "context": {"devcie": "tv"}}]
    with pytest.raises(ConfigError, match=r'users.jsonl, line 2, user "eve": the context has a column'):
        answered(recommender, capsys, *lines)
    assert capsys.readouterr().out == ""


def test_more_results_than_items_are_all_items(recommender: Recommender, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = answered(recommender, capsys, {"history": ["item-1"]}, top=10**30)
    assert {*items(line)} == {f"item-{number}" for number in range(80)} - {"item-1"}


def test_a_line_excludes_items_and_filters_by_columns(
    recommender: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    every = recommender.recommend(["item-1"], 80)
    titles = [row["title"] for row in every[:3]]
    some = {"history": ["item-1"], "exclude": [every[0]["item_id"], "gone"], "filters": {"title": titles}}
    (line,) = answered(recommender, capsys, some, top=80)
    assert line["recommendations"] == [row for row in every[1:] if row["title"] in titles]
    assert "unknown" not in line, "an item that does not exist is not recommended anyway"


def test_an_answer_without_recommendations_has_a_note(
    recommender: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    some = {"history": ["item-1"]}
    lines = answered(
        recommender,
        capsys,
        some,
        {"history": []},
        {"history": ["gone"]},
        some | {"filters": {"topic": ["nordlys"]}},
        some | {"candidates": ["gone"]},
        some | {"candidates": ["item-2"], "exclude": ["item-2"]},
    )
    assert [line.get("note") for line in lines] == [
        None,
        "the history is empty",
        "no item of the history is in the catalogue",
        "no item has topic nordlys",
        "no candidate is in the catalogue",
        "candidates, filters and exclusions leave no item",
    ]


def test_a_filter_by_no_column_is_named_before_the_first_answer(
    recommender: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"history": ["item-1"]}, {"user": "eve", "history": ["item-1"], "filters": {"colour": ["red"]}}]
    with pytest.raises(ConfigError, match=r'line 2, user "eve": the items have no column .colour.: choose from title'):
        answered(recommender, capsys, *lines)
    assert capsys.readouterr().out == ""


def test_a_line_decides_whether_its_history_may_be_recommended(
    recommender: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    some = {"history": ["item-1", "item-2"]}
    without, repeated = answered(recommender, capsys, some, some | {"repeats": True}, top=80)
    assert {*items(repeated)} - {*items(without)} == {"item-1", "item-2"}
    assert len(items(repeated)) == 80


def test_names_that_are_no_characters_come_back(recommender: Recommender, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = answered(recommender, capsys, {"user": "\ud800", "history": ["item-1", "\udfff"]})
    assert (line["user"], line["unknown"]) == ("\ud800", ["\udfff"])
    assert len(items(line)) == 2


def test_a_second_history_is_refused_instead_of_replacing_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert one_history(parse(["--run", "runs/x", "--history", "a, b"])) == ["a", "b"]
    with pytest.raises(SystemExit):
        parse(["--run", "runs/x", "--history", "a", "--history", "b"])
    assert "--history is given twice: use --histories for several users" in capsys.readouterr().err
