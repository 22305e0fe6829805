"""The user tower and the scorer of a model as files that need no TransRec: `torch.export` programs or ONNX.

Every file is read back and compared with the live model before the export is complete.

Shape letters: B users, L positions, D width of item vectors, N items, W width of targets.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from transrec.errors import TransRecError
from transrec.extras import needed
from transrec.files import writing
from transrec.protocols import CatalogueTable, Model

TowerKind = Literal["torch", "onnx"]
SUFFIXES: dict[TowerKind, str] = {"torch": ".pt2", "onnx": ".onnx"}
TOLERANCE = 1e-5  # of differences from the live model, relative to its largest value if that is above 1
_CHECKED = (1, 2, 64)  # numbers of users
Inputs = tuple[Tensor, Tensor]
Program = Callable[[Tensor, Tensor], Tensor]


class PortabilityError(TransRecError):
    """An exported file computes different values from the model that it was made from."""


class UserTower(nn.Module):
    """`forward(items (B, L, D), mask (B, L)) -> (B, W)`: user vectors of left-padded histories.

    It has no weights that belong to items.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        unused = [model.get_submodule(model.towers()["item"].prefix)]
        unused += [
            child for table in model.modules() if isinstance(table, CatalogueTable) for child in table.children()
        ]
        self.model: Model = copy.deepcopy(model, {id(module): nn.Identity() for module in unused}).cpu().eval()

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        return self.model.user_vectors(items, mask)


class ItemScorer(nn.Module):
    """`forward(users (B, W), targets (N, W)) -> (B, N)`: scores as float32, summed in float64."""

    def forward(self, users: Tensor, targets: Tensor) -> Tensor:
        return (users.double() @ targets.double().T).float()


def check_installed(kinds: Sequence[TowerKind]) -> None:
    """
    Raises:
        ExtraError: a library for one of these kinds is not installed.
    """
    if "onnx" in kinds:
        needed("onnx", "a tower in ONNX", "onnx", "onnxscript", "onnxruntime")


def write_program(module: nn.Module, names: tuple[str, str], examples: Sequence[Inputs], path: Path) -> float:
    """Write a module as a program, in the format given by the file's suffix, and compare it with the module.

    Args:
        names: names of the inputs, whose first dimensions are dynamic.
        examples: inputs for which the outputs are compared; the last one is used for tracing.

    Returns:
        The largest error, relative to the largest value of an output if that is above 1.

    Raises:
        PortabilityError: the error is above `TOLERANCE`.
        ExtraError: a library is not installed.
    """
    shapes = {name: {0: torch.export.Dim.AUTO} for name in names}
    with torch.no_grad(), _quietly():
        if path.suffix == SUFFIXES["onnx"]:
            check_installed(["onnx"])
            program = _write_onnx(module, names, examples[-1], shapes, path)
        else:
            program = _write_torch(module, examples[-1], shapes, path)
        worst = max(_error(program(*inputs), module(*inputs)) for inputs in examples)
    if not worst <= TOLERANCE:
        raise PortabilityError(
            f"{path.name} differs from the model by {worst:.1e}, and at most {TOLERANCE:.0e} is allowed: use another "
            "format (--tower)"
        )
    return worst


def random_histories(items: Tensor, max_length: int, seed: int = 0) -> list[Inputs]:
    """Vectors (B, L, D) and masks (B, L) of random histories over the items (N, D), for several B."""
    random = torch.Generator().manual_seed(seed)
    found = []
    for users in _CHECKED:
        rows = torch.randint(len(items), (users, max_length), generator=random)
        lengths = torch.randint(1, max_length + 1, (users, 1), generator=random)
        mask = torch.arange(max_length) >= max_length - lengths
        found.append((items[rows] * mask.unsqueeze(-1), mask))
    return found


def _write_torch(module: nn.Module, example: Inputs, shapes: dict[str, Any], path: Path) -> Program:
    program = torch.export.export(module, example, dynamic_shapes=shapes)
    with writing(path):
        torch.export.save(program, path)
    loaded: Program = torch.export.load(path).module()
    return loaded


def _write_onnx(
    module: nn.Module, names: tuple[str, str], example: Inputs, shapes: dict[str, Any], path: Path
) -> Program:
    program = torch.onnx.export(
        module,
        example,
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=list(names),
        output_names=["out"],
        verbose=False,
    )
    assert program is not None  # it is None only with dynamo=False
    with writing(path):
        program.save(str(path), external_data=False)
    (runtime,) = needed("onnx", "a tower in ONNX", "onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        values = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return torch.from_numpy(np.asarray(session.run(None, values)[0]))

    return run


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the exporters' remarks about libraries that are not used, such as torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
