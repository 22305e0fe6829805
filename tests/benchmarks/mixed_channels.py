"""Time of one pass over the users of all channels, against a pass for each channel.

    python tests/benchmarks/mixed_channels.py RUN ADAPTER …

`transrec serve` makes a pass for each channel of a batch. One pass for all would stack the weights that differ and map
over them (`torch.func`). This measures both for user encoders, alternating in one process on one core.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.func import functional_call

from transrec import load_adapters

ROUNDS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("adapters", type=Path, nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="There is a performance drop")  # attention is not mapped on CPUs
    channels = load_adapters(arguments.adapters, base=arguments.run)
    encoders: list[Any] = [channel.model.user_encoder for channel in channels]
    width = channels[0].item_vectors().vectors.shape[1]
    print("users a channel   a pass for all over a pass for each: time, largest difference")
    with torch.inference_mode():
        for users in (1, 2, 4, 8, 16):
            items = torch.randn(len(encoders), users, 20, width)
            mask = torch.ones(items.shape[:-1], dtype=torch.bool)
            together, apart = mapped(encoders, items, mask), one_by_one(encoders, items, mask)
            print(f"{users:15}   {ratio(together, apart):.2f} ×, {float((together() - apart()).abs().max()):.1e}")


def one_by_one(encoders: list[Any], items: torch.Tensor, mask: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A pass over each channel."""
    return lambda: torch.stack([encoder(*inputs) for encoder, *inputs in zip(encoders, items, mask, strict=True)])


def mapped(encoders: list[Any], items: torch.Tensor, mask: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The pass over all channels; weights that they share are not stacked."""
    every = [dict(encoder.named_parameters()) for encoder in encoders]
    shared = {name for name, one in every[0].items() if all(one.data_ptr() == p[name].data_ptr() for p in every)}
    stacked = {n: every[0][n] if n in shared else torch.stack([p[n] for p in every]) for n in every[0]}
    places = {name: None if name in shared else 0 for name in stacked}
    call = torch.vmap(lambda weights, *inputs: functional_call(encoders[0], weights, inputs), (places, 0, 0))
    return lambda: call(stacked, items, mask)


def ratio(one: Callable[[], Any], other: Callable[[], Any]) -> float:
    """The median over rounds of the time of `one` over that of `other`."""
    return statistics.median(seconds(one) / seconds(other) for _ in range(ROUNDS))


def seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
