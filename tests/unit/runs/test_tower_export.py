"""Towers that other programs load; those of text are trained and exported by the commands, in integration."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pictured import build_pictured, random_histories, vision_model
from transformers import AutoImageProcessor, AutoModel
from untrained_runs import export_run, make

from transrec.config import ConfigError
from transrec.item_encoders import layer_by_layer
from transrec.item_encoders.families import FAMILIES
from transrec.runs.tower_export import export_peft, export_towers

PREPARED = """{"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.2], "size": {"height": 16, "width": 16},
"image_processor_type": "ViTImageProcessor"}"""
LORA = {"name": "lora", "towers": ["item"], "also_train": ["head"]}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictured")
    return build_pictured(folder, 12, range(1, 13), range(1, 13), random_histories(20, 12))


@pytest.mark.parametrize("adaptation", [{"name": "full"}, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", [name for name, kind in FAMILIES.items() if kind.modality == "image"])
def test_auto_model_loads_the_image_tower_that_was_trained(
    tmp_path: Path, shards: Path, family: str, adaptation: dict[str, Any]
) -> None:
    vision_model(family).save_pretrained(tmp_path / "vision")
    (tmp_path / "vision" / "preprocessor_config.json").write_text(PREPARED, encoding="utf-8")
    image = {"name": "image", "backbone": str(tmp_path / "vision"), "pooling": "mean"}
    run = make(tmp_path / "run", shards, image, adaptation=adaptation)
    own = export_run(run).eval().item_encoder.backbone
    assert export_towers(run.run_dir, tmp_path / "tower") == {tmp_path / "tower": "image"}
    changes = {"mask_ratio": 0.0} if family == "vit_mae" else {}
    loaded, info = AutoModel.from_pretrained(tmp_path / "tower", output_loading_info=True, **changes)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = layer_by_layer.run_layers(own, layer_by_layer.embed(own, {"pixel_values": pixels}), None).states[-1]
        noise = {"noise": torch.arange(16.0).expand(2, -1)} if family == "vit_mae" else {}
        found = loaded.eval()(pixels, **noise).last_hidden_state
        if family == "clip_vision_model":
            found = loaded.post_layernorm(found)  # which CLIP puts on the class token alone
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert tuple(AutoImageProcessor.from_pretrained(tmp_path / "tower").image_mean) == (0.4, 0.5, 0.6)


@pytest.mark.parametrize("method", ["k_adapter", "side_network"])
def test_an_adapter_that_reads_the_tower_cannot_be_exported(tmp_path: Path, shards: Path, method: str) -> None:
    vision_model("vit").save_pretrained(tmp_path / "vision")
    (tmp_path / "vision" / "preprocessor_config.json").write_text(PREPARED, encoding="utf-8")
    image = {"name": "image", "backbone": str(tmp_path / "vision"), "pooling": "mean"}
    adapted = {"name": method, "towers": ["item"], "bottleneck": {"item": 4}, "also_train": ["head"]}
    heads = {"heads": {"item": 2}} if method == "k_adapter" else {}
    run = make(tmp_path / "run", shards, image, adaptation=[LORA, adapted | heads])
    export_run(run)
    for export in (export_towers, export_peft):
        with pytest.raises(ConfigError, match=r"readout\.adapter is a .* cannot represent"):
            export(run.run_dir, tmp_path / "tower")
