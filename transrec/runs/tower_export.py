"""Exports trained towers for other programs: whole, for `AutoModel.from_pretrained`, or only their LoRA, for PEFT.

Designs considered. Writing them with every export: exports would be twice as large, for a rare need. Exporting on
request from the run folder. Chosen: the latter. A Hugging Face model cannot represent adapters, so only LoRA is
supported: it can be merged into the weights or written for PEFT.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from transrec import weights
from transrec.adaptation.lora import LowRank, as_peft, merge
from transrec.config import ConfigError
from transrec.files import write_text, writing
from transrec.item_encoders.backbone_encoder import BACKBONE_FOLDER, BackboneEncoder
from transrec.item_encoders.backbones import save_whole
from transrec.runs.channels import Channel, read_adapter
from transrec.runs.export import read_export
from transrec.runs.outputs import output_folder
from transrec.runs.rebuild import rebuild
from transrec.runs.run_folder import load


def export_towers(run_dir: Path, output: Path, base: Path | None = None) -> dict[Path, str]:
    """Write each backbone of a run's item encoder to `output`, or to one subfolder per modality if there are several.

    Args:
        run_dir: a run; with `base`, also an adapter's `export/`, which may have been copied elsewhere.
        base: the run that an adapter was trained on; None: the one in its configuration.

    Returns:
        Folder and modality of each.

    Raises:
        BusyError: another process writes to `output`.
        ConfigError: `output` is not empty, there is no backbone, or it has adapters that cannot be merged.
    """
    with output_folder(output) as partial:
        channel = _open(run_dir, base)
        towers = _towers(channel)
        for tower in towers.values():
            if _adapters(tower, run_dir):
                merge(tower.backbone)
        for name, tower in towers.items():
            assets = channel.export / name / BACKBONE_FOLDER  # tokenizer, preprocessing
            with writing(output / name):
                _copy(assets, partial / name)
                save_whole(tower.backbone, partial / name)
    return {output / name: tower.modality for name, tower in towers.items()}


def export_peft(run_dir: Path, output: Path, base: Path | None = None) -> dict[Path, str]:
    """Write the LoRA weights of each backbone for `PeftModel.from_pretrained`, to be used with the original backbone.

    The arguments are those of `export_towers`.

    Returns:
        Folder and modality of each.

    Raises:
        ConfigError: as for `export_towers`, or no backbone has LoRA, or other weights of a backbone were trained.
    """
    with output_folder(output) as partial:
        found = _towers(_open(run_dir, base))
        towers = {name: tower for name, tower in found.items() if _adapters(tower, run_dir)}
        if not towers:
            raise ConfigError(f"{run_dir}: no backbone has LoRA to write for PEFT; leave out --peft")
        for name, tower in towers.items():
            _write_peft(tower, run_dir, partial / name)
    return {output / name: tower.modality for name, tower in towers.items()}


def _write_peft(tower: BackboneEncoder, run_dir: Path, folder: Path) -> None:
    beside = [n for n, p in tower.backbone.named_parameters() if p.requires_grad and ".adapter." not in n]
    if beside:
        raise ConfigError(
            f"{run_dir}: {beside[0]} was trained in addition to LoRA; leave out --peft, which writes only LoRA"
        )
    config, tensors = as_peft(tower.backbone)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    weights.write(folder / weights.ADAPTER_FILE, tensors)
    write_text(folder / weights.ADAPTER_CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def _copy(assets: Path, output: Path) -> None:
    try:
        shutil.copytree(assets, output, dirs_exist_ok=True)
    except shutil.Error as error:
        source, _, reason = error.args[0][0]
        raise ConfigError(
            f"cannot copy {source} ({reason}): start the training of the run again to restore it"
        ) from None


def _open(run_dir: Path, base: Path | None) -> Channel:
    return Channel(run_dir, run_dir / "export", load(run_dir)) if base is None else read_adapter(run_dir, base)


def _towers(channel: Channel) -> dict[str, BackboneEncoder]:
    """The backbone encoders by folder name, which is empty if there is only one."""
    model = rebuild(channel.experiment, channel.export, read_export(channel.export).num_items)
    item_encoder = model.get_submodule("item_encoder")
    towers = {name: module for name, module in item_encoder.named_modules() if isinstance(module, BackboneEncoder)}
    if not towers:
        raise ConfigError(f"{channel.folder} has no backbone to export: its items are embedded by id")
    return towers


def _adapters(tower: nn.Module, run_dir: Path) -> dict[str, Any]:
    """The LoRA modules of a tower.

    Raises:
        ConfigError: the tower has adapters of another kind, which cannot be merged into its weights.
    """
    adapters: dict[str, Any] = {name: m for name, m in tower.named_modules() if name.split(".")[-1] == "adapter"}
    for name, adapter in adapters.items():
        if not isinstance(adapter, LowRank):
            raise ConfigError(
                f"{run_dir}: {name} is a {type(adapter).__name__}, which a Hugging Face model cannot represent; only "
                "LoRA can be merged into the weights. Use the run's export with its base instead"
            )
    return adapters
