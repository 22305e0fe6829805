"""Time and operations of ranking a whole catalogue, with rough scores that are made exact in doubt, and in other ways.

    python tests/benchmarks/full_ranking.py [--items 80000] [--users 4096] [--width 64] [--history 30] [--rounds 5]

rough      as in an evaluation: blocks of 256 users are joined and scored in float32, doubtful scores again in float64
exact      every score in float64, a block at a time
released   the loop of Adapter4Rec's `metrics.py`: a product and a full sort for each user, on a tenth of the users

They take turns in one process, so that other load on the machine affects all alike. Reported are medians, in processor
time if there is no accelerator. All must find the same ranks, except for the ties of `released`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from transrec.distributed.world import World
from transrec.evaluation.measure import measure
from transrec.evaluation.readings import READINGS, ManyTargets, Ranking, join_targets
from transrec.nn.dot_product import InnerProducts

BLOCK = 256
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Case:
    users: Tensor  # (U, D)
    items: Tensor  # (N + 1, D)
    blocks: list[ManyTargets]
    ranking: Ranking


class Operations(TorchDispatchMode):
    """Counts the calls of PyTorch's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.count += 1
        return operator(*arguments, **(keywords or {}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=80_000)
    parser.add_argument("--users", type=int, default=4096)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--history", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    case = prepare(arguments)
    ways: dict[str, Callable[[Case], Tensor]] = {"rough": rough, "exact": exact, "released": released}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Tensor] = {}
    for _ in range(arguments.rounds + 1):
        for name, way in ways.items():
            began = clock()
            found[name] = way(case)
            seconds[name].append(clock() - began)
    assert torch.equal(found["rough"], found["exact"])
    users = {name: len(ranks) for name, ranks in found.items()}
    median = {name: statistics.median(times[1:]) / users[name] for name, times in seconds.items()}  # the first warms up
    for name, way in ways.items():
        with Operations() as operations:
            way(case)
        calls = operations.count / users[name] * BLOCK
        times = f"{1e6 * median[name]:9.1f} µs a user  {median[name] / median['rough']:6.2f} × rough"
        print(f"{name:9} {times}  {calls:9,.1f} operations for {BLOCK} users")


def prepare(arguments: argparse.Namespace) -> Case:
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(arguments.users, arguments.width, generator=generator)
    items = torch.randn(arguments.items + 1, arguments.width, generator=generator)
    histories = torch.randint(1, arguments.items + 1, (arguments.users, arguments.history), generator=generator)
    targets = torch.randint(1, arguments.items + 1, (arguments.users,), generator=generator)
    numbers = torch.arange(arguments.users)
    columns = zip(*(column.split(BLOCK) for column in (numbers, targets, histories)), strict=True)
    places = torch.arange(arguments.items + 1)
    ranking = Ranking(arguments.items, places > 0, "count", DEVICE, popularity=places)
    return Case(users.to(DEVICE), items.to(DEVICE), [ManyTargets(*block) for block in columns], ranking)


def rough(case: Case) -> Tensor:
    def answer(asked: ManyTargets | None) -> InnerProducts:
        assert asked is not None
        return InnerProducts(case.users[asked.users], case.items)

    readings = {"user": READINGS["user"], "rank": READINGS["rank"]}
    return measure(case.blocks, answer, readings, case.ranking, World(device=DEVICE), join_targets)["rank"]


def exact(case: Case) -> Tensor:
    scores = [InnerProducts(case.users[block.users], case.items) for block in case.blocks]
    return torch.cat(
        [case.ranking.rank(block, score.__call__) for block, score in zip(case.blocks, scores, strict=True)]
    ).cpu()


def released(case: Case) -> Tensor:
    ranks = []
    for block in case.blocks[: max(1, len(case.blocks) // 10)]:
        for user, target, history in zip(block.users, block.targets, block.left_out, strict=True):
            scores = case.users[user] @ case.items.T
            scores[history] = -torch.inf
            order = torch.argsort(scores[1:], descending=True) + 1
            ranks.append((order == target).nonzero()[0, 0] + 1)
    return torch.stack(ranks)


def clock() -> float:
    if DEVICE.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
