"""A training step on a device without data, on which every wait of the host is an error."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from transrec.data.batch import to_device

NOWHERE = torch.device("meta")


class HostWait(Exception):
    """An operation for which the host would wait for the device."""


class _Copies(TorchDispatchMode):
    """Refuses copies of tensors from the host, which block."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        there = isinstance(found, Tensor) and found.device == NOWHERE
        if there and any(arg.device != NOWHERE and arg.ndim for arg in args if isinstance(arg, Tensor)):
            raise HostWait(f"{func} copies from the host")
        return found


class _Numbers(TorchFunctionMode):
    """Refuses tensors made of Python's numbers, which are copied, too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = func in (torch.tensor, torch.as_tensor) and found.device == NOWHERE
        indices = args[1] if func is Tensor.__getitem__ else ()
        if made or any(isinstance(index, list) for index in (indices if isinstance(indices, tuple) else [indices])):
            raise HostWait(f"{func} copies numbers from the host")
        return found


def step_without_waiting(model: nn.Module, batch: Any) -> None:
    """Forward and backward of `model` on a device without data, after a first step, which may fill caches.

    Raises:
        HostWait: the step reads a value, a number of elements that depends on values, or copies from the host.
    """
    model, batch = deepcopy(model).to(NOWHERE), to_device(batch, NOWHERE)
    autocast = torch.autocast
    try:
        torch.autocast = lambda _, **settings: autocast("cpu", **settings)  # type: ignore[assignment,misc]
        _step(model, batch)
        with _Copies(), _Numbers():
            _step(model, batch)
    except (NotImplementedError, RuntimeError) as error:
        raise HostWait(str(error)) from error
    finally:
        torch.autocast = autocast  # type: ignore[misc]


def _step(model: nn.Module, batch: Any) -> None:
    torch.stack(list(model(batch).values())).sum().backward()
