"""Next-item prediction: the state after each item has to score the next item above others.

Every loss is the sum over the scored positions, in float32; the trainer divides it by their number.

Shape letters: B users, P scored positions, K negatives, U items of the pool, D width, S scored positions of
all users, C candidates.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from transrec.config import Config
from transrec.data.batch import Sampling, SequenceBatch
from transrec.nn.softmax_loss import softmax_loss
from transrec.objectives.classes import of_the_rank, of_the_world
from transrec.protocols import Objective


class NextItemConfig(Config):
    """Configuration of `BinaryCrossEntropy`."""

    name: Literal["next_item"] = Field(
        "next_item", description="binary cross-entropy of the next item and sampled negatives"
    )
    negatives: int = Field(1, ge=1, description="sampled negatives per scored position")

    @property
    def sampling(self) -> Sampling:
        return Sampling(loss=self.name, positions="all", negatives=self.negatives)

    def build(self) -> "BinaryCrossEntropy":
        return BinaryCrossEntropy(self.sampling)


class InBatchSoftmaxConfig(Config):
    """Configuration of `InBatchSoftmax`."""

    name: Literal["in_batch_softmax"] = Field("in_batch_softmax", description="softmax over the items in the batch")
    temperature: float = Field(1.0, gt=0, description="initial temperature, which divides the inner products")
    learn_temperature: bool = Field(False, description="train the temperature with the head")
    debias: bool = Field(True, description="correct for the fact that popular items occur in more batches")
    negatives_from: Literal["rank", "world"] = Field(
        "rank", description="where negatives come from: the rank's own micro-batch, or the micro-batches of all ranks"
    )

    @property
    def sampling(self) -> Sampling:
        return Sampling(loss=self.name, owned=True, across_ranks=self.negatives_from == "world")

    def build(self) -> "InBatchSoftmax":
        return InBatchSoftmax(self.sampling, self.temperature, self.learn_temperature, self.debias)


class FullSoftmaxConfig(Config):
    """Configuration of `FullSoftmax`."""

    name: Literal["full_softmax"] = Field("full_softmax", description="softmax over the catalogue")
    temperature: float = Field(1.0, gt=0, description="initial temperature, which divides the inner products")
    learn_temperature: bool = Field(False, description="train the temperature with the head")

    @property
    def sampling(self) -> Sampling:
        return Sampling(loss=self.name, pool="catalogue")

    def build(self) -> "FullSoftmax":
        return FullSoftmax(self.sampling, self.temperature, self.learn_temperature)


class SampledSoftmaxConfig(Config):
    """Configuration of `SampledSoftmax`."""

    name: Literal["sampled_softmax"] = Field("sampled_softmax", description="softmax over a sample of the catalogue")
    candidates: float = Field(0.2, gt=0, lt=1, description="share of the catalogue drawn at each step")
    temperature: float = Field(1.0, gt=0, description="initial temperature, which divides the inner products")
    learn_temperature: bool = Field(False, description="train the temperature with the head")

    @property
    def sampling(self) -> Sampling:
        return Sampling(loss=self.name, candidates=self.candidates)

    def build(self) -> "SampledSoftmax":
        return SampledSoftmax(self.sampling, self.temperature, self.learn_temperature)


class BinaryCrossEntropy(Objective):
    """Σ softplus(−⟨h, e⁺⟩) + (1/K) Σₖ softplus(⟨h, e⁻ₖ⟩): one target, K sampled negatives per position.

    Paper: Kang and McAuley, ICDM 2018, section III-E; Fu et al., WSDM 2024 (two means, added, K = 1).
    Deviation: with K > 1, the negatives' terms are averaged, so that K does not change the balance between target and
    negatives.
    """

    def forward(self, states: Tensor, pool: Tensor, batch: SequenceBatch) -> Tensor:
        """Sum of the loss over the scored positions.

        Args:
            states: (B, P, D) user states at the scored positions.
            pool: (U, D) vectors of the items that `batch` indexes.
        """
        with torch.autocast(states.device.type, enabled=False):
            states_BPD, pool_UD = states.float(), pool.float()
            positive_BP = (states_BPD * pool_UD[batch.targets]).sum(-1)
            negative_BPK = (pool_UD[batch.negatives] @ states_BPD.unsqueeze(-1)).squeeze(-1)
            loss_BP = F.softplus(-positive_BP) + F.softplus(negative_BPK).mean(-1)
            return loss_BP.masked_fill(~batch.target_mask, 0).sum()


class Temperature(nn.Module):
    """Divides user vectors by a temperature, which is fixed or learned (as its logarithm)."""

    def __init__(self, temperature: float, learned: bool):
        super().__init__()
        self.temperature = temperature
        self.log_temperature = nn.Parameter(torch.tensor([math.log(temperature)])) if learned else None

    def forward(self, users: Tensor) -> Tensor:
        """Scaled user vectors (B, D) of `users` (B, D)."""
        if self.log_temperature is None:
            return users / self.temperature
        return users * (-self.log_temperature.float()).exp()


class Softmax(Objective):
    """Softmax losses: logits are inner products over a temperature τ."""

    def __init__(self, sampling: Sampling, temperature: float = 1.0, learn_temperature: bool = False):
        super().__init__(sampling)
        self.logits = Temperature(temperature, learn_temperature)

    def _scored(self, states: Tensor, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """States over τ (S, D) of the scored positions, and the pool rows of their targets (S,)."""
        states_SD = states.float().flatten(0, 1).index_select(0, batch.scored)
        return self.logits(states_SD), batch.targets.flatten()[batch.scored]


class InBatchSoftmax(Softmax):
    """Σ −log softmax of ⟨h, e⟩/τ − log q(e) over the batch's distinct items, except the user's other items.

    The pool is the rank's own micro-batch, which is smaller with gradient accumulation or with more ranks at the same
    batch size. With `negatives_from: world` it contains the micro-batches of all ranks, so only gradient accumulation
    makes it smaller.
    q(e) = 1 − (1 − p(e))ⁿ is the probability that an item with share p of all interactions is among a batch's n: log q
    is log p plus a constant for small batches, and 0 if a batch holds the whole catalogue.

    Paper: Yuan et al., "Where to Go Next for Recommender Systems? ID- vs. Modality-based Recommender Models
    Revisited", SIGIR 2023 (debiased in-batch cross-entropy), after Yi et al., RecSys 2019. Deviation: an item
    that occurs several times in the batch is one class; the authors have one per occurrence and subtract log p.
    """

    def __init__(self, sampling: Sampling, temperature: float, learn_temperature: bool, debias: bool):
        super().__init__(sampling, temperature, learn_temperature)
        self.debias = debias

    def forward(self, states: Tensor, pool: Tensor, batch: SequenceBatch) -> Tensor:
        """Arguments as in `BinaryCrossEntropy.forward`."""
        with torch.autocast(states.device.type, enabled=False):
            states_SD, targets_S = self._scored(states, batch)
            classes = (of_the_world if self.sampling.across_ranks else of_the_rank)(pool.float(), targets_S, batch)
            logits_SW = states_SD @ classes.vectors.T
            if self.debias:
                logits_SW = logits_SW - log_inclusion(classes.log_popularity, classes.draws)
            logits_SW = logits_SW.masked_fill(classes.hidden, -torch.inf)
            return F.cross_entropy(logits_SW, classes.targets, reduction="sum")


class FullSoftmax(Softmax):
    """Σ −log softmax of ⟨h, e⟩/τ over the whole catalogue, which is the pool; every step encodes all of its items.

    For ID embeddings and small catalogues: Klenitskiy and Vasilev, "Turning Dross Into Gold Loss: is BERT4Rec
    really better than SASRec?", RecSys 2023.
    """

    def forward(self, states: Tensor, pool: Tensor, batch: SequenceBatch) -> Tensor:
        """Arguments as in `BinaryCrossEntropy.forward`."""
        with torch.autocast(states.device.type, enabled=False):
            states_SD, targets_S = self._scored(states, batch)
            return softmax_loss(states_SD, pool.float(), targets_S)


class SampledSoftmax(Softmax):
    """Σ −log softmax of ⟨h, e⟩/τ − log q(e) over the target and the step's other candidates.

    q(e) is the probability that e is among the candidates, so the expected sum over the candidates is the sum over the
    catalogue (Jean et al., "On Using Very Large Target Vocabulary for Neural Machine Translation", ACL 2015). A
    candidate equal to the target would count twice, and is excluded. PeterRec (Yuan et al., SIGIR 2020) samples a fifth
    of the catalogue.
    """

    def forward(self, states: Tensor, pool: Tensor, batch: SequenceBatch) -> Tensor:
        """Arguments as in `BinaryCrossEntropy.forward`."""
        if batch.candidates is None or batch.log_inclusion is None:
            raise ValueError("sampled_softmax needs batch.candidates: the stream must be built from `sampling`")
        with torch.autocast(states.device.type, enabled=False):
            (states_SD, targets_S), pool_UD = self._scored(states, batch), pool.float()
            candidates_C = batch.candidates
            target_S = (states_SD * pool_UD[targets_S]).sum(-1) - batch.log_inclusion[targets_S]
            others_SC = states_SD @ pool_UD[candidates_C].T - batch.log_inclusion[candidates_C]
            others_SC = others_SC.masked_fill(candidates_C == targets_S.unsqueeze(1), -torch.inf)
            logits_S1C = torch.cat([target_S.unsqueeze(1), others_SC], dim=1)
            return F.cross_entropy(logits_S1C, torch.zeros_like(targets_S), reduction="sum")


def log_inclusion(log_popularity: Tensor, draws: Tensor | int) -> Tensor:
    """log(1 − (1 − p)ⁿ), the log probability that an item of log popularity log p is among n draws."""
    return torch.log(-torch.expm1(draws * torch.log1p(-log_popularity.exp().clamp(max=1 - 1e-6))))
