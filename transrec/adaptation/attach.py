"""Attaching adapters to a model: an adapter is a child module of the site it adapts, called by one forward hook.

A site is a place with the same name in every encoder (`attention_output`, `ffn_output`, …); an adapter is a module that
receives the site's input and output and returns the new output. Base modules keep their names and values, so strict
loading, adapter-only checkpoints and sharding work as if nothing had been attached.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from transrec.config import ConfigError
from transrec.protocols import Adapter, Model, Tower, TowerEncoder

OF_THE_TOWER = ("embeddings", "readout", "fusion")  # sites that belong to the tower, not to a layer

# Sub-layer whose input a parallel adapter reads, by site.
_SUB_LAYER_INPUT = {
    "attention_output": "attention_input",
    "ffn_output": "ffn_input",
    "conv1": "conv1_input",
    "conv2": "conv2_input",
}
# Sites of a layer of two convolutions that correspond to those of a transformer's sub-layers.
_OF_CONVOLUTIONS = {"attention_output": "conv1", "ffn_output": "conv2"}


@dataclass(frozen=True)
class Site:
    """A place in a tower where an adapter can be attached."""

    tower: str  # its name in the model
    group: str  # key of the widths and ranks of its adapters
    encoder: TowerEncoder
    name: str
    layer: int | None  # None if the tower has only one such site
    module: nn.Module  # an adapter changes its output
    source: nn.Module | None  # module whose input is the input of the sub-layer that ends in `module`
    width: int  # width of the site's output
    modality: str  # modality of the items, which selects the learning rates of adapters

    def __str__(self) -> str:
        return f"{self.tower}.{self.name}" + ("" if self.layer is None else f"[{self.layer}]")


def towers(model: Model, names: Sequence[str]) -> dict[str, Tower]:
    """Get the towers of `model` with these `names`.

    Raises:
        ConfigError: the model has no tower of that name.
    """
    known = model.towers()
    for name in names:
        if name not in known:
            raise ConfigError(
                f"`towers`: the model has no {name} tower: choose among those it has ({', '.join(known) or 'none'})"
            )
    return {name: known[name] for name in names}


def sites(model: Model, tower: str, name: str, layers: Sequence[int] | None = None) -> list[Site]:
    """Sites called `name` in a tower, in the given layers or, if None, in all. `layers` applies to item towers only.

    Raises:
        ConfigError: the tower has no such site or no such layer.
    """
    found = towers(model, [tower])[tower]
    chosen = layers if found.group == "item" else None
    return [site for leaf in found.leaves for site in _sites(leaf, tower, name, chosen)]


def fusion(model: Model) -> Site:
    """Get the site that fuses an item's text and image into one vector; its input includes the states of both towers.

    Raises:
        ConfigError: the item encoder does not read both modalities.
    """
    item = towers(model, ["item"])["item"]
    if len(item.leaves) < 2:
        read = ", ".join(leaf.modality for leaf in item.parts) or "neither"
        raise ConfigError(
            f"adapters between modalities need an item encoder that reads text and image, but this one reads {read}"
        )
    (site,) = _sites(item, "item", "fusion", None)
    return site


def _sites(tower: Tower, of: str, name: str, layers: Sequence[int] | None) -> list[Site]:
    encoder, paths = tower.encoder, tower.encoder.site_paths
    if "conv1" in paths:
        name = _OF_CONVOLUTIONS.get(name, name)
    if name not in paths or name in _SUB_LAYER_INPUT.values():
        known = ", ".join(sorted(set(paths) - set(_SUB_LAYER_INPUT.values()))) or "none"
        raise ConfigError(
            f"{type(encoder).__name__}, the {of} tower, has no site {name!r}: choose among those it has ({known})"
        )
    if name in OF_THE_TOWER:
        (path,) = paths[name]
        module, width = encoder.get_submodule(path), encoder.hidden_size
        return [Site(of, tower.group, encoder, name, None, module, None, width, tower.modality)]
    chosen = range(encoder.num_layers) if layers is None else layers
    for layer in chosen:
        if not 0 <= layer < encoder.num_layers:
            raise ConfigError(f"`layers`: the {of} tower has layers 0..{encoder.num_layers - 1}, not {layer}")
    return [_site_of_layer(tower, of, name, layer) for layer in chosen]


def _site_of_layer(tower: Tower, of: str, name: str, layer: int) -> Site:
    encoder = tower.encoder

    def module(site: str) -> Any:
        try:
            return encoder.get_submodule(encoder.site_paths[site][layer])
        except AttributeError as error:
            raise ConfigError(
                f"the {of} tower is built differently from others of its kind, so it cannot be adapted: {error}"
            ) from None

    source = module(_SUB_LAYER_INPUT[name]) if name in _SUB_LAYER_INPUT else None
    width = _WIDTHS[name](module) if name in _WIDTHS else module(name).out_features
    return Site(of, tower.group, encoder, name, layer, module(name), source, width, tower.modality)


# Sites that are not linear maps take their width from a neighbouring linear map.
_WIDTHS: dict[str, Any] = {
    "ffn_hidden": lambda module: module("ffn_output").in_features,
    "ffn_norm": lambda module: module("ffn_output").out_features,
}


def attach(site: Site, adapter: Adapter, parallel: bool = False) -> None:
    """Make `adapter(x, y)` the output of `site`, whose own output is y.

    Args:
        parallel: x is the input of the sub-layer (attention or FFN) that ends in the site, not the site's input.

    Raises:
        ConfigError: the site already has an adapter, or `parallel` is set for a site that is not a sub-layer's end.
    """
    if hasattr(site.module, "adapter"):
        there, wanted = (type(module).__name__ for module in (site.module.get_submodule("adapter"), adapter))
        raise ConfigError(
            f"site {site} already has an adapter, {there}: remove it, or choose another site for {wanted}"
        )
    if parallel:
        if site.source is None:
            raise ConfigError(
                f"site {site} is not the end of a sub-layer, so no adapter can run in parallel to it: set mode=serial"
            )
        carried = _CarriedInput()
        site.source.register_forward_pre_hook(carried.keep, with_kwargs=True)
        site.module.adapter_input = carried  # type: ignore[assignment]  # not a module: it has no parameters
    site.module.add_module("adapter", adapter)
    site.module.register_forward_hook(_adapt_output, with_kwargs=True)


def adapters(module: nn.Module) -> Iterator[tuple[str, Adapter]]:
    """Yield the path of each submodule that has an adapter, and the adapter."""
    for path, inner in module.named_modules():
        if any(hook is _adapt_output for hook in inner._forward_hooks.values()):
            adapter = inner.get_submodule("adapter")
            assert isinstance(adapter, Adapter)
            yield path, adapter


def detach(module: nn.Module) -> None:
    """Remove an adapter that is not parallel."""
    del module.adapter
    for handle in [key for key, hook in module._forward_hooks.items() if hook is _adapt_output]:
        del module._forward_hooks[handle]
        module._forward_hooks_with_kwargs.pop(handle, None)


class _CarriedInput:
    """Carries a sub-layer's input to the adapter at its end, within one forward pass (or recomputation).

    The two modules share one object; copying or pickling them preserves the sharing and never copies a tensor.
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
    carried = module.__dict__.get("adapter_input")  # set by `attach` for parallel adapters
    x = carried.take() if carried is not None else _first(args, kwargs)
    adapter = module.get_submodule("adapter")
    return (adapter(x, y[0]), *y[1:]) if isinstance(y, tuple) else adapter(x, y)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    tensor: Tensor = args[0] if args else next(iter(kwargs.values()))
    return tensor
