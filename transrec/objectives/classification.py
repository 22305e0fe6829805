"""Classification: predict the target of a task among all its targets.

Shape letters: B users, P scored positions (1, the task token), K negatives, D width.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from transrec.config import Config
from transrec.data.batch import Sampling, SequenceBatch
from transrec.objectives.next_item import BinaryCrossEntropy, FullSoftmax
from transrec.protocols import Objective


class ClassificationConfig(Config):
    """`softmax` compares all targets; `logistic` and `bpr` sample `negatives`, never targets of the same user."""

    name: Literal["classification"] = Field("classification", description="predict the targets of a task")
    loss: Literal["softmax", "logistic", "bpr"] = Field(
        "softmax", description="loss that compares a target with the others"
    )
    negatives: int = Field(1, ge=1, description="number of sampled negative targets, for logistic and bpr")

    @property
    def sampling(self) -> Sampling:
        return Sampling(loss=self.name, positions="last", negatives=0 if self.loss == "softmax" else self.negatives)

    def build(self) -> "FullSoftmax | BinaryCrossEntropy | BPR":
        kinds = {"softmax": FullSoftmax, "logistic": BinaryCrossEntropy, "bpr": BPR}
        found: FullSoftmax | BinaryCrossEntropy | BPR = kinds[self.loss](self.sampling)
        return found


class BPR(Objective):
    """(1/K) Σₖ softplus(⟨h, e⁻ₖ⟩ − ⟨h, e⁺⟩), that is −log σ of the target's margin, averaged over negatives.

    Paper: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
    """

    def forward(self, states: Tensor, pool: Tensor, batch: SequenceBatch) -> Tensor:
        """Arguments as in `BinaryCrossEntropy.forward`."""
        with torch.autocast(states.device.type, enabled=False):
            states_BPD, pool_UD = states.float(), pool.float()
            positive_BP = (states_BPD * pool_UD[batch.targets]).sum(-1)
            negative_BPK = (pool_UD[batch.negatives] @ states_BPD.unsqueeze(-1)).squeeze(-1)
            loss_BP = F.softplus(negative_BPK - positive_BP.unsqueeze(-1)).mean(-1)
            return loss_BP.masked_fill(~batch.target_mask, 0).sum()
