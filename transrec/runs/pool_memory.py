"""Checks that an objective whose candidates are the whole catalogue, or a share of it, fits into memory.

A softmax over the catalogue encodes every item in each step and scores every position against all of them. Without this
check, a run with a large catalogue would fail only after its start, with a message that names no setting.

Designs considered. A limit on the number of items: memory that suffices for millions of embedded ids suffices for only
hundreds of items of a text encoder. Trying a step and catching the failure: without a GPU, the operating system kills
the process instead. Chosen: measuring the encoder's memory for a few items, and adding the size of the scores.
"""

import math
import os

import torch
from torch import Tensor

from transrec.config import ConfigError
from transrec.data.batch import ItemContent, Sampling
from transrec.data.content.item_store import ItemStore
from transrec.experiment import Experiment
from transrec.nn.softmax_loss import table_rows
from transrec.protocols import Examples, Model

_FEW, _MORE = 16, 48  # numbers of items that are encoded to measure the memory per item
_GIB = 2**30


def check_pool(
    experiment: Experiment, model: Model, examples: Examples, store: ItemStore, ranks: int, device: torch.device
) -> None:
    """Check that the candidates of a step and their scores fit into memory; call before the first batch is made.

    Raises:
        ConfigError: they do not; the message names the setting to change.
    """
    sampling, train = experiment.model.sampling, experiment.train
    share = 1.0 if sampling.pool == "catalogue" else sampling.candidates
    if not share:
        return
    items, positions = round(share * len(examples.ranked)), _positions(sampling, experiment.model.max_length)
    scored = positions * train.batch_size // (ranks * train.accumulation)
    probes = (store.content(examples.ranked[:count]) for count in (_FEW, _MORE))
    # Only the difference counts, because both keep the same 16-bit copies of weights.
    few, more = (kept_bytes(model, probe, train.precision != "fp32") for probe in probes)
    kept = items * max(0, more - few) // (_MORE - _FEW)
    needed = (kept + _score_bytes(sampling, scored, items, device)) / _GIB
    available = memory(device) / _GIB if train.pool_memory is None else train.pool_memory
    if needed > available:
        raise ConfigError(
            f"`model.objective`: {sampling.loss} over {items:,} items takes at least {needed:,.1f} GiB on each rank, "
            f"{kept / _GIB:,.1f} to encode them and the rest for their scores at {scored:,} positions, but only "
            f"{available:,.1f} GiB are available (`train.pool_memory`): {_remedy(sampling)}"
        )


def _score_bytes(sampling: Sampling, scored: int, items: int, device: torch.device) -> int:
    """Bytes of scores in float32; those of a sample have a log-softmax, and more in the backward pass."""
    if sampling.pool == "catalogue":
        return 4 * min(scored, table_rows(items, device)) * items
    return 2 * 4 * scored * items


def kept_bytes(model: Model, content: ItemContent, autocast: bool) -> int:
    """Bytes that the item encoder keeps for its backward pass over `content`, without its parameters."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            kept += storage.nbytes()
        return tensor

    with (
        torch.random.fork_rng(),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        vectors = model.encode_items(content)
        del vectors  # not earlier: a new tensor could reuse the address of a freed one and be missed
    return kept


def memory(device: torch.device) -> int:
    """Bytes of memory of a GPU, or of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _positions(sampling: Sampling, max_length: int) -> int:
    """The maximum number of scored positions in a window."""
    if sampling.masked:
        return max(1, math.ceil(sampling.masked * max_length))
    return max_length if sampling.positions == "all" else 1


def _remedy(sampling: Sampling) -> str:
    catalogue = sampling.pool == "catalogue"
    if sampling.masked:
        return "set model.objective.candidates=0.01, for example" if catalogue else "lower model.objective.candidates"
    other = "choose the objective in_batch_softmax"
    return f"{other} or sampled_softmax" if catalogue else f"lower model.objective.candidates or {other}"
