import torch

from transrec.data.batch import Sampling
from transrec.objectives.classification import ClassificationConfig


def scores(case):
    """Of the scored rows: the target's, and those of the negatives."""
    mask = case.batch.target_mask
    states = case.states[mask]
    targets = (states * case.pool[case.batch.targets[mask]]).sum(-1)
    return targets, (case.pool[case.batch.negatives[mask]] @ states.unsqueeze(-1)).squeeze(-1)


def test_softmax_is_over_the_whole_table(make):
    objective = ClassificationConfig().build()
    case = make(objective.sampling)
    assert objective.sampling == Sampling(loss="classification", positions="last")
    target, _ = scores(case)
    everything = case.states[case.batch.target_mask] @ case.pool.T
    expected = (everything.exp().sum(-1).log() - target).sum()
    torch.testing.assert_close(objective(case.states, case.pool, case.batch), expected)


def test_logistic_and_bpr_by_their_formulas(make):
    for loss in ("logistic", "bpr"):
        objective = ClassificationConfig(loss=loss, negatives=2).build()
        assert objective.sampling == Sampling(loss="classification", positions="last", negatives=2)
        case = make(objective.sampling)
        target, negatives = scores(case)
        if loss == "logistic":
            expected = -(target.sigmoid().log() + (1 - negatives.sigmoid()).log().mean(-1)).sum()
        else:
            expected = -(target.unsqueeze(-1) - negatives).sigmoid().log().mean(-1).sum()
        torch.testing.assert_close(objective(case.states, case.pool, case.batch), expected)
