"""Trained towers as Hugging Face models of their own: what `AutoModel.from_pretrained` loads, and other programs use.

Designs considered: to write it into every run's export, which would double it for what few ask for; and on request,
from the run. A tower has no place for adapters, so only what can be folded into its weights is.
"""

import shutil
from pathlib import Path
from typing import Any

from torch import nn

from transrec.adaptation.lora import LowRank, merge
from transrec.config import ConfigError
from transrec.experiment import load_run
from transrec.item_encoders.backbone_encoder import BACKBONE_FOLDER, BackboneEncoder
from transrec.item_encoders.backbones import save_whole
from transrec.rebuild import read_export_config, rebuild


def export_towers(run_dir: Path, output: Path) -> dict[Path, str]:
    """Write each backbone of a run's item encoder: to `output` itself, of several to a folder of its modality there.

    Returns:
        Folder and modality of each.

    Raises:
        ConfigError: `output` is not empty, there is no backbone, or it has adapters that cannot be folded into it.
    """
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty: choose another --output")
    experiment, export = load_run(run_dir), run_dir / "export"
    item_encoder = rebuild(experiment, export, read_export_config(export)["num_items"]).get_submodule("item_encoder")
    towers = {name: module for name, module in item_encoder.named_modules() if isinstance(module, BackboneEncoder)}
    if not towers:
        raise ConfigError(f"{run_dir} has no backbone to export: its items are embedded by id")
    for tower in towers.values():
        fold_adapters(tower.backbone, run_dir)
    for name, tower in towers.items():
        shutil.copytree(export / name / BACKBONE_FOLDER, output / name, dirs_exist_ok=True)  # tokenizer, preprocessing
        save_whole(tower.backbone, output / name)
    return {output / name: tower.modality for name, tower in towers.items()}


def fold_adapters(backbone: nn.Module, run_dir: Path) -> None:
    """Make the adapters of `backbone` part of its weights.

    Raises:
        ConfigError: there is one that no weights can express.
    """
    adapters: dict[str, Any] = {name: m for name, m in backbone.named_modules() if name.split(".")[-1] == "adapter"}
    for name, adapter in adapters.items():
        if not isinstance(adapter, LowRank):
            raise ConfigError(
                f"{run_dir}: {name} is a {type(adapter).__name__}, for which a Hugging Face model has no place; only "
                "LoRA can be folded into the weights. Use the run's export with its base instead"
            )
    if adapters:
        merge(backbone)
