"""One compiled function handles all sizes; without a compiler there is a one-sentence error."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from transrec.nn.compiled import CompilerError, compiled


def twice(rows: Tensor) -> Tensor:
    return (2 * rows).relu().sum(1)


@pytest.fixture(autouse=True)
def _nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.slow
def test_one_compilation_serves_all_sizes() -> None:
    run = compiled(twice)
    for count in (3, 5, 9):
        rows = torch.randn(count, 2 * count)
        torch.testing.assert_close(run(rows), twice(rows))
    assert counters["stats"]["unique_graphs"] == 1


def test_a_missing_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/no/such/g++",))
    with pytest.raises(CompilerError, match=r"^`train\.compile=true`: .*install a C\+\+ compiler[^\n]*$"):
        compiled(twice)(torch.randn(3, 4))
