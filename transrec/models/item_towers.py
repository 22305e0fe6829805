"""Towers of an item encoder: `item`, the whole encoder, and one for each modality that it reads."""

from torch import nn

from transrec.protocols import ItemEncoder, Tower


def item_towers(model: nn.Module, item_encoder: ItemEncoder) -> dict[str, Tower]:
    """Towers of `item_encoder`, a submodule of `model`, by name."""
    paths = {module: path for path, module in model.named_modules()}
    readers = {
        modality: Tower(paths[encoder], encoder, "item", modality) for modality, encoder in item_encoder.parts.items()
    }
    layered = tuple(tower for tower in readers.values() if tower.encoder.num_layers)
    modality = "image" if [tower.modality for tower in layered] == ["image"] else "text"
    return {"item": Tower(paths[item_encoder], item_encoder, "item", modality, layered), **readers}
