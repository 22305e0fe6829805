from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from contents import without_content
from torch import Tensor

from transrec.data.batch import Sampling, SequenceBatch


@dataclass
class Scored:
    """What an objective gets: user states, the pool, and the batch that points at it."""

    states: Tensor
    pool: Tensor
    batch: SequenceBatch


@pytest.fixture
def make() -> Callable[..., Scored]:
    """A random case that answers a `Sampling`: B=3 users of 4 positions, U=7 items, D=5."""

    def make(sampling: Sampling, seed: int = 0) -> Scored:
        generator = torch.Generator().manual_seed(seed)
        users, length, items, width = 3, 4, 7, 5
        positions = length if sampling.positions == "all" else 1
        mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]).bool()
        popularity = torch.rand(items, generator=generator)
        targets = torch.randint(items, (users, positions), generator=generator)
        batch = SequenceBatch(
            content=without_content(torch.arange(1, items + 1)),
            inputs=torch.randint(items, (users, length), generator=generator),
            input_mask=mask,
            targets=targets,
            target_mask=mask[:, -positions:],
            scored=mask[:, -positions:].flatten().nonzero()[:, 0],
            negatives=torch.randint(items, (users, positions, sampling.negatives), generator=generator),
            log_popularity=(popularity / popularity.sum()).log(),
            draws=12,
            owned=torch.rand(users, items, generator=generator) < 0.4 if sampling.owned else None,
            user_ids=["u", "v", "w"],
            candidates=torch.tensor([0, 2, 3, 6]) if sampling.candidates else None,
            log_inclusion=-torch.rand(items, generator=generator) if sampling.candidates else None,
            masked=mask if sampling.masked else None,
            counts={},
            occurrences=0,
        )
        states = torch.randn(users, positions, width, generator=generator, requires_grad=True)
        pool = torch.randn(items, width, generator=generator, requires_grad=True)
        return Scored(states, pool, batch)

    return make
