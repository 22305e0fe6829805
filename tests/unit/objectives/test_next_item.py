import pytest
import torch
from torch import nn

from transrec.data.batch import Sampling
from transrec.objectives.cpc import CPCConfig
from transrec.objectives.next_item import NextItemConfig


@pytest.mark.parametrize("config", [NextItemConfig(), CPCConfig()], ids=lambda config: config.name)
def test_one_negative_is_the_reference_of_two_bce_means_added(config, make):
    objective = config.build()
    case = make(objective.sampling)
    mask = case.batch.target_mask
    positive = (case.states * case.pool[case.batch.targets]).sum(-1)[mask]
    negative = (case.states * case.pool[case.batch.negatives[..., 0]]).sum(-1)[mask]
    bce = nn.BCEWithLogitsLoss()
    expected = bce(positive, torch.ones_like(positive)) + bce(negative, torch.zeros_like(negative))
    torch.testing.assert_close(objective(case.states, case.pool, case.batch) / case.batch.target_mask.sum(), expected)


def test_several_negatives_are_averaged(make):
    objective = NextItemConfig(negatives=3).build()
    case = make(objective.sampling)
    expected = 0.0
    for user, position in case.batch.target_mask.nonzero().tolist():
        state = case.states[user, position]
        expected += torch.log1p(torch.exp(-state @ case.pool[case.batch.targets[user, position]]))
        for item in case.batch.negatives[user, position]:
            expected += torch.log1p(torch.exp(state @ case.pool[item])) / 3
    torch.testing.assert_close(objective(case.states, case.pool, case.batch), expected)


def test_cpc_asks_for_the_last_position_and_next_item_for_all():
    assert CPCConfig(negatives=4).build().sampling == Sampling(loss="cpc", positions="last", negatives=4)
    assert NextItemConfig(negatives=2).build().sampling == Sampling(loss="next_item", positions="all", negatives=2)
    assert (CPCConfig().build().name, NextItemConfig().build().name) == ("cpc", "next_item")
