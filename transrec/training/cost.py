"""The cost of a run: parameters by tower, floating-point operations per user, and the share of them that is wasted.

Operations are counted on one real micro-batch before DeepSpeed wraps the model. Designs considered: closed forms by
layer, which cover only the modules they were written for; a trace over tensors without values, which fails for
objectives that choose scored positions by value; and PyTorch's counter on a real step, which measures adapters, frozen
parts and recomputation as they are. The last is used; it counts matrix products, convolutions and attention, as is
customary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from transrec.data.batch import to_device
from transrec.nn.parameter_groups import members, parameter_groups
from transrec.protocols import Batch, Model, TowerEncoder

LARGE = 0.2  # share of the work above which advice is printed


@dataclass(frozen=True)
class Cost:
    """The cost of one micro-batch; operations are those of the whole micro-batch."""

    users: int
    forward: int
    backward: int  # without the forward pass, but with the recomputation of gradient checkpointing
    towers: dict[str, int]  # forward operations by child module of the model, and for backbones by modality
    occurrences: int  # item slots: the items that would be encoded without removing duplicates
    encoded: int  # distinct items
    tokens: int  # tokens of text
    tokens_computed: int
    positions: int  # filled positions of the histories
    positions_computed: int
    encoded_in_step: int  # over all micro-batches of this rank's step
    distinct_in_step: int

    @property
    def shares(self) -> dict[str, float]:
        """Shares of operations spent on padded tokens, empty positions, and items that another micro-batch encodes."""
        text, item, user = (
            self.towers.get(tower, 0) / max(1, self.forward) for tower in ("text", "item_encoder", "user_encoder")
        )
        return {
            "padded_tokens": text * (1 - self.tokens / self.tokens_computed if self.tokens_computed else 0.0),
            "empty_positions": user * (1 - self.positions / max(1, self.positions_computed)),
            "repeated_items": item * (1 - self.distinct_in_step / max(1, self.encoded_in_step)),
        }

    def as_json(self) -> dict[str, Any]:
        """The cost as plain values for JSON."""
        per_user = {"forward": self.forward, "backward": self.backward}
        useful = (1 - min(1.0, sum(self.shares.values()))) * (self.forward + self.backward)
        return {
            "flops_per_user": {kind: round(n / self.users) for kind, n in per_user.items()}
            | {"useful": round(useful / self.users)},
            "flops_by_tower": {tower: n / max(1, self.forward) for tower, n in self.towers.items() if n},
            "work": {
                "item_occurrences": self.occurrences,
                "items_encoded": self.encoded,
                "tokens": self.tokens,
                "tokens_computed": self.tokens_computed,
                "positions": self.positions,
                "positions_computed": self.positions_computed,
                "shares": {kind: round(share, 4) for kind, share in self.shares.items()},
            },
        }

    def advice(self) -> list[str]:
        """A line for each large share of wasted work that a setting can lower; padded tokens are bounded anyway."""
        settings = {
            "empty_positions": "positions that histories do not fill: lower model.max_length",
            "repeated_items": "items that another micro-batch of the step also encodes: lower train.accumulation",
        }
        return [
            f"{s:.0%} of the work goes into {settings[k]}"
            for k, s in self.shares.items()
            if k in settings and s > LARGE
        ]


def measure(model: Model, step: Sequence[Batch], device: torch.device, autocast: bool) -> Cost | None:
    """Count the operations of the first micro-batch of `step`; the model and random numbers stay unchanged.

    Args:
        autocast: compute in 16 bits, as training does; the count is the same, but the memory differs.

    Returns:
        The cost, or None if one device cannot hold the whole model and the micro-batch.
    """
    place = next(model.parameters()).device
    try:
        with _unnoticed(model, device), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            forward, backward, towers = _count(model.to(device), to_device(step[0], device))
    except torch.OutOfMemoryError:
        return None
    finally:
        model.to(place)
    batch, items = step[0], torch.cat([part.content.items for part in step])
    (tokens, tokens_computed), (positions, positions_computed) = batch.content.tokens, batch.positions
    return Cost(
        users=max(1, batch.size),
        forward=forward,
        backward=backward,
        towers=towers,
        occurrences=batch.occurrences,
        encoded=len(batch.content.items),
        tokens=tokens,
        tokens_computed=tokens_computed,
        positions=positions,
        positions_computed=positions_computed,
        encoded_in_step=len(items),
        distinct_in_step=len(items.unique()),
    )


def _count(model: Model, batch: Batch) -> tuple[int, int, dict[str, int]]:
    """Operations of the forward pass, of the backward pass, and of the forward pass by tower."""
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU)
    # An encoder around a tower may call methods other than forward, which hooks do not see.
    steps = [(name, child, "forward") for name, child in model.named_children()]
    steps += [(name, encoder, step) for name, encoder in _leaves(model).items() for step in encoder.passes]
    towers = dict.fromkeys((name for name, _, _ in steps), 0)
    try:
        for name, module, step in steps:
            setattr(module, step, _counting(getattr(module, step), counter, towers, name))
        with counter:
            loss = torch.stack([loss.float() for loss in model(batch).values()]).sum()
            forward = counter.get_total_flops()
            loss.backward()
    finally:
        model.zero_grad(set_to_none=True)
        for _, module, step in steps:
            delattr(module, step)  # uncovers the class's own method
    return forward, counter.get_total_flops() - forward, towers


def _counting(step: Callable[..., Any], counter: FlopCounterMode, towers: dict[str, int], name: str) -> Any:
    """`step` wrapped to add its operations to `towers[name]`."""

    def counted(*args: Any, **settings: Any) -> Any:
        towers[name] -= counter.get_total_flops()
        try:
            return step(*args, **settings)
        finally:
            towers[name] += counter.get_total_flops()

    return counted


@contextmanager
def _unnoticed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Context in training mode that finally restores the random state and the mode, and resets the peak memory."""
    cuda, was_training = device.type == "cuda", model.training
    # Without cuDNN, a recurrent layer consists of matrix products, which can be counted.
    with torch.random.fork_rng([device] if cuda else []), torch.backends.cudnn.flags(enabled=False):
        model.train()
        try:
            yield
        finally:
            model.train(was_training)
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()


def _attention(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **settings: Any) -> int:
    number: int = sdpa_flop_count(query, key, value)
    return number


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **settings: Any) -> int:
    number: int = sdpa_backward_flop_count(gradient, query, key, value)
    return number


# CPU kernels that are missing from PyTorch's own table.
_ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def count_parameters(model: Model) -> dict[str, Any]:
    """Numbers of parameters: totals, by parameter group and by tower. Call this before ZeRO partitions the parameters.

    A tower's numbers cover only its body; the layers that connect it to the rest, such as a projection, belong to the
    head.
    """
    groups = {group: [member.parameter for member in members] for group, members in parameter_groups(model).items()}
    bodies = {id(p): name for name, encoder in _leaves(model).items() for p in _body_parameters(encoder)}
    towers: dict[str, list[Tensor]] = {}
    adapters: dict[str, int] = {}
    for member in members(model):
        tower = bodies.get(id(member.parameter), "head")
        towers.setdefault(tower, []).append(member.parameter)
        added = member.parameter.numel() if member.group == "adapter" else 0
        adapters[tower] = adapters.get(tower, 0) + added
    return _counts(list(model.parameters())) | {
        "groups": {group: _counts(parameters) for group, parameters in groups.items()},
        "towers": {tower: _counts(parameters) | {"adapters": adapters[tower]} for tower, parameters in towers.items()},
    }


def _leaves(model: Model) -> dict[str, TowerEncoder]:
    """The encoders of towers without parts, by name; if an encoder has two names, the later one counts."""
    leaves = {name: tower.encoder for name, tower in model.towers().items() if not tower.parts}
    return {name: encoder for encoder, name in {encoder: name for name, encoder in leaves.items()}.items()}


def _body_parameters(encoder: TowerEncoder) -> list[nn.Parameter]:
    modules = [encoder.get_submodule(path) for path in encoder.body] or [encoder]
    return [parameter for module in modules for parameter in module.parameters()]


def _counts(parameters: Sequence[Tensor]) -> dict[str, int]:
    return {
        "total": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
    }
