"""The reference that training is compared with: what a run is without DeepSpeed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transrec.data.content.item_store import ItemStore
from transrec.data.train_stream import TrainStream
from transrec.experiment import Experiment


@dataclass(frozen=True)
class Curve:
    losses: list[float]
    gradient_norms: list[float]
    weights: Mapping[str, Tensor]


def plain_loop(experiment: Experiment, without: set[str] = frozenset()) -> Curve:  # type: ignore[assignment]
    """Train as PyTorch's documentation would: one process, one batch for the whole step, `torch.optim.AdamW`.

    Args:
        without: what to leave out, to show that a comparison with it is no formality: "clipping" or "schedule".
    """
    examples = experiment.data.scan(experiment.model.max_length)
    num_items = examples.folder.index.counts.items
    store = ItemStore(examples.folder, experiment.model.content(), experiment.data.cache)
    torch.manual_seed(experiment.seed)
    model = experiment.model.build(num_items)
    experiment.adaptation.apply(model)
    train, steps = experiment.train, experiment.train.steps
    assert steps is not None
    collate = examples.collation(store, experiment.model.sampling, experiment.seed)
    stream = TrainStream(examples, collate, train.batch_size, experiment.seed)
    groups, tables = [], {}
    for name, parameter in model.named_parameters():
        if experiment.optimizer.embedding is not None and name in TABLES:
            assert experiment.optimizer.lr.embedding is not None
            tables[parameter] = DenseTable(experiment.optimizer.embedding.name, experiment.optimizer.lr.embedding)
        elif parameter.requires_grad:
            rates = experiment.optimizer.lr
            rate = rates.adapter if ".adapter." in name else rates.backbone if "backbone." in name else rates.head
            decay = experiment.optimizer.weight_decay if parameter.ndim > 1 else 0.0
            groups.append({"params": [parameter], "lr": rate, "peak": rate, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, betas=experiment.optimizer.betas)
    curve, norms = [], []
    warmup = round(experiment.optimizer.warmup * steps)
    for step in range(steps):
        factor = min(1.0, (step + 1) / (warmup + 1))
        if experiment.optimizer.schedule == "linear" and step >= warmup:
            factor = 1 - (step - warmup) / (steps - warmup)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * (1.0 if "schedule" in without else factor)
        (batch,) = stream[step]
        optimizer.zero_grad()
        ((name, terms),) = model(batch).items()
        loss = terms / batch.counts[name]
        loss.backward()
        clipping = torch.inf if "clipping" in without or not train.clipping else train.clipping
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clipping)))
        for table, rows in tables.items():
            rows.update(table, 1.0 if "schedule" in without else factor)
            table.grad = None
        optimizer.step()
        curve.append(loss.item())
    return Curve(curve, norms, {name: p.detach() for name, p in model.named_parameters() if p.requires_grad})


TABLES = {"item_encoder.embedding.weight", "output.vectors.weight", "output.bias.weight"}


class DenseTable:
    """An optimizer of rows as its equation is written: over the whole table, with a mask."""

    def __init__(self, name: str, rate: float) -> None:
        self.name, self.rate, self.steps = name, rate, 0
        self.mean = self.square = torch.zeros(1, 1)

    @torch.no_grad()
    def update(self, table: nn.Parameter, factor: float) -> None:
        assert table.grad is not None
        gradient, rate, self.steps = table.grad, self.rate * factor, self.steps + 1
        if self.name == "rowwise_adagrad":
            self.square = self.square + gradient.square().mean(1, keepdim=True)
            table -= rate * gradient / (self.square.sqrt() + 1e-8)
            return
        met = (gradient != 0).any(1, keepdim=True)
        self.mean = torch.where(met, 0.9 * self.mean + 0.1 * gradient, self.mean)
        self.square = torch.where(met, 0.999 * self.square + 0.001 * gradient.square(), self.square)
        rate *= (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        table -= met * rate * self.mean / (self.square.sqrt() + 1e-8)
