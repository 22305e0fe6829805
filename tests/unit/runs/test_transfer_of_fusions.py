"""A transfer between models with different fusions, from folders whose paths are spelled in another way."""

from pathlib import Path
from typing import Any

import pytest
from pictured import build_pictured, random_histories, vision_model
from tiny_world import build_backbone
from untrained_runs import export_run, make

from transrec.config import ConfigError
from transrec.distributed.world import World
from transrec.experiment import Experiment
from transrec.runs.build import build

ITEMS = 12


def multimodal(folder: Path, fusion: str, **more: Any) -> Experiment:
    def backbone(name: str) -> str:
        return str(folder / "elsewhere" / ".." / name if more else folder / name)

    text = {"name": "text", "backbone": backbone("text"), "fields": ["blurb"], "max_tokens": 8, "dropout": 0.0}
    image = {"name": "image", "backbone": backbone("vision"), "dropout": 0.0}
    encoder = {"name": "multimodal", "text": text, "image": image, "fusion": fusion}
    return make(folder / "run" / fusion, folder / "shards", encoder, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fusions")
    every = set(range(1, ITEMS + 1))
    build_pictured(folder, ITEMS, every, every, random_histories(30, ITEMS)).rename(folder / "shards")
    vision_model("dinov2", hidden_size=32).save_pretrained(folder / "vision")
    build_backbone(folder / "text", folder / "shards")
    (folder / "elsewhere").mkdir()
    export_run(multimodal(folder, "gated"))
    return folder


def test_advice_names_the_fusion_and_no_path_that_is_the_same(folder: Path) -> None:
    source = folder / "run" / "gated"
    with pytest.raises(ConfigError) as raised:
        build(multimodal(folder, "concat", init_from=str(source)), World())
    message = str(raised.value)
    assert "model.item_encoder.fusion.name is gated in the source run but concat in this run" in message
    assert "set init_except=[item_encoder.fusion]" in message
    assert "backbone is" not in message


def test_the_advice_works(folder: Path) -> None:
    source = folder / "run" / "gated"
    build(multimodal(folder, "concat", init_from=str(source), init_except=["item_encoder.fusion"]), World())
