"""Adaptation without adapters: parameters are selected for training, at the learning rates of their groups."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from transrec.adaptation.attach import towers
from transrec.adaptation.method import Method, Rates
from transrec.config import ConfigError
from transrec.nn.parameter_groups import Member
from transrec.protocols import Model


class FullConfig(Method):
    """Every parameter is trained (FTA in Fu et al., WSDM 2024)."""

    name: Literal["full"] = Field("full", description="train everything")

    def trains(self, member: Member) -> bool:
        return True


class HeadOnlyConfig(Method):
    """The projection and the user encoder are trained; the backbone and every LayerNorm are frozen."""

    name: Literal["head_only"] = Field("head_only", description="train the projection and the user encoder")
    also_train: list[Literal["layer_norm"]] = Field([], description="parameter groups trained in addition to the head")

    def trains(self, member: Member) -> bool:
        return member.group == "head" or member.group in self.also_train


class FrozenBackboneConfig(Method):
    """The backbones, including their LayerNorms, are frozen; everything else, including LayerNorms, is trained.

    EM3 is trained in this way on frozen encoders. `head_only` freezes every LayerNorm, even those of a fusion.
    """

    name: Literal["frozen_backbone"] = Field("frozen_backbone", description="train everything but the backbones")

    def trains(self, member: Member) -> bool:
        return not member.pretrained


class SelectiveMethod(Method):
    """Some parameters of the towers are trained."""

    towers: list[str] = Field(
        ["item", "user"], min_length=1, description="towers of the model whose parameters are selected"
    )

    def attach(self, model: Model) -> Rates:
        """Attach nothing, but check that the towers exist."""
        towers(model, self.towers)
        return {}

    def inside(self, member: Member) -> bool:
        """Whether a parameter lies in one of the towers."""
        return not member.towers.isdisjoint(self.towers)


class LayerNormConfig(SelectiveMethod):
    """The LayerNorms of the towers are trained, including those of the embeddings and the last one.

    As in Fu et al., WSDM 2024. Training only normalisation layers goes back to Frankle et al., "Training BatchNorm and
    Only BatchNorm", ICLR 2021, for BatchNorm in image models.
    """

    name: Literal["layer_norm"] = Field("layer_norm", description="train every LayerNorm")
    also_train: list[Literal["head"]] = Field([], description="parameter groups trained in addition to the LayerNorms")

    def trains(self, member: Member) -> bool:
        return (member.group == "layer_norm" and self.inside(member)) or member.group in self.also_train


class BitFitConfig(SelectiveMethod):
    """Every bias vector of the towers is trained, including those of LayerNorms and the projection.

    Paper: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
    Language-models", ACL 2022.
    """

    name: Literal["bitfit"] = Field("bitfit", description="train every bias")
    also_train: list[Literal["head", "layer_norm"]] = Field(
        [], description="parameter groups trained in addition to the biases"
    )

    def trains(self, member: Member) -> bool:
        leaf = member.name.rpartition(".")[2]
        bias = leaf == "bias" or leaf.startswith("bias_")  # the second form: recurrent networks
        return (bias and member.group != "adapter" and self.inside(member)) or member.group in self.also_train


class LastLayersConfig(Method):
    """The last layers of the user encoder are trained; in NextItNet, a layer is a convolution and its LayerNorm.

    With the head of a task, which is always trained, this is FineCLS (`layers: 0`), FineLast1 or FineLast2 of PeterRec
    (Yuan et al., SIGIR 2020).
    """

    name: Literal["last_layers"] = Field("last_layers", description="train the last layers of the user encoder")
    layers: int = Field(1, ge=0, description="number of the user encoder's last layers to train")

    def selection(self, model: Model) -> Callable[[Member], bool]:
        """The predicate that selects the parameters to train.

        Raises:
            ConfigError: the user encoder has fewer than `layers` layers.
        """
        user_encoder = towers(model, ["user"])["user"].encoder
        paths = user_encoder.layer_paths
        if self.layers > len(paths):
            raise ConfigError(f"`layers` is {self.layers}, but the user encoder has only {len(paths)}")
        chosen = [user_encoder.get_submodule(path) for layer in paths[len(paths) - self.layers :] for path in layer]
        last = {parameter for module in chosen for parameter in module.parameters()}
        return lambda member: member.parameter in last
