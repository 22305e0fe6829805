"""Adaptation that adds nothing: only which parameters train. They learn at the rates of the groups they lie in."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import nn

from transrec.adaptation.attach import Tower, encoders
from transrec.adaptation.groups import Group
from transrec.adaptation.method import Method, trains_in
from transrec.config import ConfigError


class FullConfig(Method):
    """Every parameter trains (FTA in Fu et al., WSDM 2024)."""

    name: Literal["full"] = "full"

    def trains(self, group: Group, name: str) -> bool:
        return True


class HeadOnlyConfig(Method):
    """The backbone and every LayerNorm are frozen; the projection and the user encoder train."""

    name: Literal["head_only"] = "head_only"
    also_train: list[Literal["layer_norm"]] = Field([])

    def trains(self, group: Group, name: str) -> bool:
        return group == "head" or group in self.also_train


class SelectiveMethod(Method):
    """Some parameters of the towers train."""

    towers: list[Tower] = Field(["item", "user"], min_length=1)

    def attach(self, model: nn.Module) -> None:
        """Nothing is put in, but the towers have to be there."""
        for tower in self.towers:
            encoders(model, tower)


class LayerNormConfig(SelectiveMethod):
    """The LayerNorms of the towers train, the embeddings' and the last one included.

    As in Fu et al., WSDM 2024; for images first in Frankle et al., "Training BatchNorm and Only BatchNorm", ICLR 2021.
    """

    name: Literal["layer_norm"] = "layer_norm"
    also_train: list[Literal["head"]] = Field([])

    def trains(self, group: Group, name: str) -> bool:
        return (group == "layer_norm" and trains_in(self.towers, name)) or group in self.also_train


class BitFitConfig(SelectiveMethod):
    """Every bias vector of the towers trains, LayerNorms' and the projection's included.

    Paper: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
    Language-models", ACL 2022.
    """

    name: Literal["bitfit"] = "bitfit"
    also_train: list[Literal["head", "layer_norm"]] = Field([])

    def trains(self, group: Group, name: str) -> bool:
        leaf = name.rpartition(".")[2]
        bias = leaf == "bias" or leaf.startswith("bias_")  # the second: a recurrent network's
        return (bias and group != "adapter" and trains_in(self.towers, name)) or group in self.also_train


class LastLayersConfig(Method):
    """The last layers of the user encoder train; of NextItNet, convolutions with the LayerNorm behind each.

    With the head of a task, which always trains: FineCLS (`layers: 0`), FineLast1 and FineLast2 of PeterRec (Yuan et
    al., SIGIR 2020).
    """

    name: Literal["last_layers"] = "last_layers"
    layers: int = Field(1, ge=0)

    def selection(self, model: nn.Module) -> Callable[[Group, str], bool]:
        """
        Raises:
            ConfigError: the user encoder has fewer layers.
        """
        (user_encoder,) = encoders(model, "user")
        paths: list[tuple[str, ...]] = user_encoder.layer_paths
        if self.layers > len(paths):
            raise ConfigError(f"`layers`: the user encoder has {len(paths)} layers, not {self.layers}")
        last = tuple(f"user_encoder.{path}." for layer in paths[len(paths) - self.layers :] for path in layer)
        return lambda group, name: name.startswith(last)
