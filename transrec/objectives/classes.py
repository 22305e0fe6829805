"""The classes of an in-batch softmax: the distinct items of a batch, or of the batches of all ranks.

Designs considered for classes across ranks. Loaders that read the windows of all ranks: they know the whole pool, but
every window is read once per rank. A class for each rank's copy of an item: popular items count several times, so the
loss depends on the number of ranks. Chosen: the pools are gathered with their item numbers. If several ranks hold an
item, the first copy is its class; all copies come from the same weights, so the gradient is the same as with one
process. The ranks agree on the size of the largest pool beforehand, so that no host waits for a size.

Shape letters: B users, S scored positions of all users, U items of the pool, M items of the largest pool of any rank,
W classes, H items of a history, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from transrec.data.batch import SequenceBatch
from transrec.distributed.gathered import gathered, rank, ranks


@dataclass(frozen=True)
class Classes:
    """The classes of the softmax at each scored position."""

    vectors: Tensor  # (W, D)
    targets: Tensor  # (S,) int64, the class of each target
    hidden: Tensor  # (S, W) bool, classes that a position is not compared with; never its target
    log_popularity: Tensor  # (W,)
    draws: Tensor | int  # item occurrences that the classes were collected from


def of_the_rank(pool: Tensor, targets: Tensor, batch: SequenceBatch) -> Classes:
    """The classes of the softmax: the items of this rank's batch.

    Args:
        pool: (U, D) item vectors.
        targets: (S,) row of each target in `pool`.

    Raises:
        ValueError: the batch lacks `owned`.
    """
    if batch.owned is None:
        raise ValueError("in_batch_softmax needs batch.owned: the stream must be built from `sampling`")
    hidden = batch.owned[_users(batch)].scatter(1, targets.unsqueeze(1), False)
    return Classes(pool, targets, hidden, batch.log_popularity, batch.draws)


def of_the_world(pool: Tensor, targets: Tensor, batch: SequenceBatch) -> Classes:
    """The items of the batches of all ranks; arguments and errors as in `of_the_rank`."""
    if batch.histories is None:
        raise ValueError("negatives_from=world needs batch.histories: the stream must be built from `sampling`")
    if not batch.content.largest:  # outside training, for example when its cost is measured, ranks do not run in step
        return of_the_rank(pool, targets, batch)
    # A rank without windows holds one item, only because an encoder needs at least one.
    items = batch.content.items if batch.draws else torch.zeros_like(batch.content.items)
    most = batch.content.largest
    more = most - len(items)
    items_W = gathered(F.pad(items, (0, more)))
    of_class_W = _first_copies(items_W)
    absent_W = (items_W == 0) | (of_class_W != torch.arange(len(items_W), device=items.device))
    draws = torch.full((1,), float(batch.draws), device=pool.device)
    counted = gathered(torch.cat([F.pad(batch.log_popularity, (0, more)), draws])).unflatten(0, (ranks(), most + 1))
    targets_S = of_class_W[targets + rank() * most]
    hidden_BW = _within(items_W, batch.histories) | absent_W
    hidden_SW = hidden_BW[_users(batch)].scatter(1, targets_S.unsqueeze(1), False)
    vectors = gathered(F.pad(pool, (0, 0, 0, more)))
    return Classes(vectors, targets_S, hidden_SW, counted[:, :-1].flatten(), counted[:, -1].sum())


def _users(batch: SequenceBatch) -> Tensor:
    """(S,) the user of each scored position."""
    return batch.scored // batch.target_mask.shape[1]


def _first_copies(items: Tensor) -> Tensor:
    """(W,) the place of the first item equal to that at each place of `items` (W,)."""
    ordered, order = items.sort(stable=True)
    starts = F.pad(ordered[1:] != ordered[:-1], (1, 0), value=True)
    places = torch.arange(len(items), device=items.device)
    return torch.empty_like(order).scatter(0, order, order[places.where(starts, 0).cummax(0).values])


def _within(items: Tensor, histories: Tensor) -> Tensor:
    """(B, W) whether each of `items` (W,) is in each of `histories` (B, H), which are ascending."""
    wanted = items.expand(len(histories), -1).contiguous()
    places = torch.searchsorted(histories, wanted).clamp(max=histories.shape[1] - 1)
    return histories.gather(1, places) == wanted
