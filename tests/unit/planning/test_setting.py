"""Sizes of runs."""

from pathlib import Path

import pytest
from invented_runs import experiment

from transrec.planning.setting import ParameterCount


@pytest.mark.parametrize("items", [2, 5, 40])
def test_parameters_are_those_of_the_model(tmp_path: Path, items: int) -> None:
    run = experiment(tmp_path)
    model = run.model.build(items)
    assert ParameterCount(run.model, run)(items).total == sum(p.numel() for p in model.parameters())


def test_rows_updated_alone_are_beside(tmp_path: Path) -> None:
    run = experiment(tmp_path, optimizer={"embedding": {"name": "lazy_adam"}})
    few, many = (ParameterCount(run.model, run)(items) for items in (10, 1010))
    assert many.beside - few.beside == 1000 * 8
    assert many.dense == few.dense
    assert many.total == many.trainable


def test_frozen_parameters_do_not_train(tmp_path: Path) -> None:
    run = experiment(tmp_path, adaptation={"name": "bitfit"})
    found = ParameterCount(run.model, run)(10)
    assert 0 < found.trainable < found.total
