"""Groups of questions, by how often targets occur and by whether users are known, and metrics within them."""

import math

import torch

from transrec.evaluation.estimates import Interval
from transrec.evaluation.groups import by_popularity, by_user, group_table, of_each, within
from transrec.evaluation.metrics import metric


def members(counts: list[int]) -> dict[str, list[int]]:
    return {name: mask.nonzero().flatten().tolist() for name, mask in by_popularity(torch.tensor(counts)).items()}


def test_thirds_of_the_questions_whose_targets_occur() -> None:
    assert members([9, 0, 1, 4, 0, 2, 3, 8]) == {"cold": [1, 4], "rare": [2, 5], "medium": [3, 6], "popular": [0, 7]}


def test_equally_frequent_targets_stay_together() -> None:
    assert members([1, 1, 1, 1, 1, 2, 2, 3, 3]) == {"rare": [0, 1, 2, 3, 4], "medium": [5, 6], "popular": [7, 8]}


def test_groups_without_questions_are_left_out() -> None:
    assert members([0, 0]) == {"cold": [0, 1]}
    assert members([5, 5, 5]) == {"rare": [0, 1, 2]}


def test_metrics_are_those_of_the_group_alone() -> None:
    columns = {
        "user": torch.arange(6),
        "target": torch.tensor([1, 2, 3, 1, 2, 3]),
        "rank": torch.tensor([1, 20, 1, 30, 1, 1]),
    }
    masks = by_popularity(torch.tensor([0, 0, 4, 9])[columns["target"]])
    found = within(masks, columns, [metric("HR@10")], Interval())
    assert {name: (group.questions, group.estimates["HR@10"].value) for name, group in found.items()} == {
        "cold": (2, 0.5),
        "rare": (2, 0.5),
        "medium": (2, 1.0),
    }
    assert found["cold"].as_json()["questions"] == 2


def test_clicks_are_measured_by_the_popularity_of_the_item_shown() -> None:
    """The cold items are in the wrong order, the others in the right one; of the rare ones, nobody clicked any."""
    columns = {
        "user": torch.tensor([0, 0, 1, 1, 1, 1, 0]),
        "target": torch.tensor([1, 1, 3, 3, 4, 4, 2]),
        "score": torch.tensor([1.0, 2.0, 2.0, 1.0, 2.0, 1.0, 5.0], dtype=torch.float64),
        "label": torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]),
    }
    masks = by_popularity(torch.tensor([0, 0, 1, 4, 9])[columns["target"]])
    found = within(masks, columns, [metric("AUC"), metric("log_loss")], Interval())
    auc = {name: group.estimates["AUC"].value for name, group in found.items()}
    assert auc["cold"] == 0
    assert auc["popular"] == 1
    assert {name: group.questions for name, group in found.items()}["cold"] == 2
    view = group_table("by_popularity", {"this run": found})
    assert [column.header for column in view.columns][:2] == ["AUC by target", "cold (2)"]


def test_an_order_needs_both_answers() -> None:
    columns = {
        "user": torch.tensor([0, 1]),
        "target": torch.tensor([1, 1]),
        "score": torch.tensor([1.0, 2.0], dtype=torch.float64),
        "label": torch.zeros(2),
    }
    [group] = within({"cold": torch.ones(2, dtype=torch.bool)}, columns, [metric("AUC")], Interval()).values()
    assert math.isnan(group.estimates["AUC"].value)
    assert [*group_table("by_popularity", {"this run": {"cold": group}}).columns[1].cells] == ["undefined"]


def test_impressions_are_grouped_by_whether_their_user_is_known() -> None:
    """Those of the known user are in the right order, those of the new one in the wrong one."""
    columns = {
        "user": torch.tensor([0, 0, 1, 1, 0]),
        "known": torch.tensor([True, True, False, False, True]),
        "score": torch.tensor([2.0, 1.0, 1.0, 2.0, 0.0], dtype=torch.float64),
        "label": torch.tensor([1, 0, 1, 0, 0]),
    }
    found = within(by_user(columns["known"]), columns, [metric("AUC")], Interval())
    assert {name: (group.questions, group.estimates["AUC"].value) for name, group in found.items()} == {
        "known": (3, 1.0),
        "new": (2, 0.0),
    }
    view = group_table("by_user", {"this run": found})
    assert [column.header for column in view.columns] == ["AUC by user", "known (3)", "new (2)"]
    everyone = torch.ones(2, dtype=torch.bool)
    assert [*by_user(everyone)] == ["known"], "a group without impressions is omitted"
    assert [*by_user(~everyone)] == ["new"]


def test_the_groups_of_several_models_are_shown_together() -> None:
    columns = {"user": torch.arange(2), "rank": torch.tensor([1, 20])}
    masks = by_user(torch.tensor([True, False]))
    one = within(masks, columns, [metric("HR@10")], Interval())
    other = within(masks, columns | {"rank": torch.tensor([20, 1])}, [metric("HR@10")], Interval())
    found = of_each({"one": {"by_user": one}, "other": {"by_user": other}})
    assert found == {"by_user": {"one": one, "other": other}}
