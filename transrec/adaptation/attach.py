"""The one way an adapter is put into a model: a child module of the site it adapts, and one forward hook.

A site is a place every encoder names alike (`attention_output`, `ffn_output`, …); an adapter is a module that
sees the site's input and output and returns the new output. Base modules keep their names and values, so
strict loading, adapter-only checkpoints and sharding work as if nothing had been attached.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from transrec.config import ConfigError

Tower = Literal["item", "text", "image", "user"]  # item: all of the item encoder
Modality = Literal["text", "image"]

OF_THE_TOWER = ("embeddings", "readout", "fusion")  # sites that are not of a layer

# The sub-layer whose input a parallel adapter at a site reads.
_SUB_LAYER_INPUT = {
    "attention_output": "attention_input",
    "ffn_output": "ffn_input",
    "conv1": "conv1_input",
    "conv2": "conv2_input",
}
# What stands for the ends of a transformer's sub-layers in a layer of two convolutions.
_OF_CONVOLUTIONS = {"attention_output": "conv1", "ffn_output": "conv2"}


@dataclass(frozen=True)
class Site:
    tower: Tower
    encoder: Any  # of which it is a place
    name: str
    layer: int | None  # None where the tower has only one such place
    module: nn.Module  # its output is what an adapter changes
    source: nn.Module | None  # its input is the input of the sub-layer that ends in `module`
    width: int  # of the site's output
    modality: Modality  # of the items; it has a say in how fast an adapter learns

    def __str__(self) -> str:
        return f"{self.tower}.{self.name}" + ("" if self.layer is None else f"[{self.layer}]")


def sites(model: nn.Module, tower: Tower, name: str, layers: Sequence[int] | None = None) -> list[Site]:
    """The places called `name` in the given layers (None: all; the user encoder's always all) of a tower.

    Raises:
        ConfigError: the tower has no such site or no such layer.
    """
    return [
        site
        for encoder in encoders(model, tower)
        for site in _sites(encoder, tower, name, None if tower == "user" else layers, _modality(model, encoder))
    ]


def fusion(model: nn.Module) -> Site:
    """Where what an item says and what it shows become one vector; it is given the states of both towers.

    Raises:
        ConfigError: the item encoder does not read both.
    """
    item_encoder: Any = model.get_submodule("item_encoder")
    if len(item_encoder.towers) < 2:
        read = ", ".join(item_encoder.towers) or "neither"
        raise ConfigError(f"what lies between modalities needs an item encoder of text and image; this reads {read}")
    (site,) = _sites(item_encoder, "item", "fusion", None, "text")
    return site


def encoders(model: nn.Module, tower: Tower) -> list[Any]:
    """What a tower is made of: several encoders, if the item encoder reads several modalities.

    Raises:
        ConfigError: the item encoder does not read that modality.
    """
    if tower == "user":
        return [model.get_submodule("user_encoder")]
    item_encoder: Any = model.get_submodule("item_encoder")
    towers: dict[str, nn.Module] = item_encoder.towers
    if tower == "item":
        return list(towers.values()) or [item_encoder]
    if tower not in towers:
        raise ConfigError(f"`towers`: the item encoder has no {tower} tower; it has: {', '.join(towers) or 'none'}")
    return [towers[tower]]


def _modality(model: nn.Module, encoder: Any) -> Modality:
    """What an encoder reads; the user encoder reads what the item encoder makes of texts, or of images alone."""
    item_encoder: Any = model.get_submodule("item_encoder")
    return getattr(encoder, "modality", "image" if [*item_encoder.towers] == ["image"] else "text")


def _sites(encoder: Any, tower: Tower, name: str, layers: Sequence[int] | None, modality: Modality) -> list[Site]:
    paths: dict[str, list[str]] = encoder.site_paths
    if "conv1" in paths:
        name = _OF_CONVOLUTIONS.get(name, name)
    if name not in paths or name in _SUB_LAYER_INPUT.values():
        known = ", ".join(sorted(set(paths) - set(_SUB_LAYER_INPUT.values()))) or "none"
        raise ConfigError(f"{type(encoder).__name__}, the {tower} tower, has no site {name!r}; its sites: {known}")
    if name in OF_THE_TOWER:
        (path,) = paths[name]
        return [Site(tower, encoder, name, None, encoder.get_submodule(path), None, encoder.hidden_size, modality)]
    chosen = range(encoder.num_layers) if layers is None else layers
    for layer in chosen:
        if not 0 <= layer < encoder.num_layers:
            raise ConfigError(f"`layers`: {layer} is not in 0..{encoder.num_layers - 1} of the {tower} tower")
    return [_site_of_layer(encoder, tower, name, layer, modality) for layer in chosen]


def _site_of_layer(encoder: Any, tower: Tower, name: str, layer: int, modality: Modality) -> Site:
    def module(site: str) -> Any:
        try:
            return encoder.get_submodule(encoder.site_paths[site][layer])
        except AttributeError as error:
            raise ConfigError(f"the {tower} tower is built otherwise than others of its kind: {error}") from None

    source = module(_SUB_LAYER_INPUT[name]) if name in _SUB_LAYER_INPUT else None
    side = {"ffn_hidden": "in_features", "ffn_norm": "out_features"}.get(name)
    width = getattr(module("ffn_output"), side) if side else module(name).out_features
    return Site(tower, encoder, name, layer, module(name), source, width, modality)


def attach(site: Site, adapter: nn.Module, parallel: bool = False) -> None:
    """Make `adapter(x, y)` the output of `site`, whose own output is y.

    Args:
        parallel: x is the input of the sub-layer (attention or FFN) that ends in the site, not the site's
        own.

    Raises:
        ConfigError: the site has an adapter already, or no sub-layer to run in parallel to.
    """
    if hasattr(site.module, "adapter"):
        there, wanted = (type(module).__name__ for module in (site.module.get_submodule("adapter"), adapter))
        raise ConfigError(f"site {site} has an adapter already, {there}: it does not take {wanted} too")
    if parallel:
        if site.source is None:
            raise ConfigError(f"site {site} does not end a sub-layer: nothing can run in parallel to it")
        carried = _CarriedInput()
        site.source.register_forward_pre_hook(carried.keep, with_kwargs=True)
        site.module.adapter_input = carried  # type: ignore[assignment]  # not a module: it has no parameters
    site.module.add_module("adapter", adapter)
    site.module.register_forward_hook(_adapt_output, with_kwargs=True)


def detach(module: nn.Module) -> None:
    """Undo `attach` of an adapter that is not parallel."""
    del module.adapter
    for handle in [key for key, hook in module._forward_hooks.items() if hook is _adapt_output]:
        del module._forward_hooks[handle]
        module._forward_hooks_with_kwargs.pop(handle, None)


class _CarriedInput:
    """Carries a sub-layer's input to the adapter at its end, within one forward pass (or recomputation).

    One object is shared by the two modules; copying or pickling them copies the sharing, never a tensor.
    """

    def __init__(self) -> None:
        self.x: Tensor | None = None

    def keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.x = _first(args, kwargs)

    def take(self) -> Tensor:
        if self.x is None:
            raise RuntimeError("a parallel adapter ran without its sub-layer")
        x, self.x = self.x, None
        return x

    def __reduce__(self) -> tuple[Any, ...]:
        return _CarriedInput, ()


def _adapt_output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Any) -> Any:
    carried: Any = getattr(module, "adapter_input", None)
    x = carried.take() if carried is not None else _first(args, kwargs)
    adapter = module.get_submodule("adapter")
    return (adapter(x, y[0]), *y[1:]) if isinstance(y, tuple) else adapter(x, y)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else next(iter(kwargs.values()))
