"""Adaptation that adds nothing: only which parameters train."""

from typing import Literal

from pydantic import Field
from torch import nn

from transrec.adaptation.groups import GROUPS, Group, train_only
from transrec.config import Config


class FullConfig(Config):
    """Every parameter trains (FTA in Fu et al., WSDM 2024)."""

    name: Literal["full"] = "full"

    @property
    def trainable_groups(self) -> set[Group]:
        return set(GROUPS)

    def apply(self, model: nn.Module) -> None:
        train_only(model, self.trainable_groups)


class HeadOnlyConfig(Config):
    """The backbone and every LayerNorm are frozen; the projection and the user encoder train."""

    name: Literal["head_only"] = "head_only"
    also_train: list[Literal["layer_norm"]] = Field([])

    @property
    def trainable_groups(self) -> set[Group]:
        return {"head", *self.also_train}

    def apply(self, model: nn.Module) -> None:
        train_only(model, self.trainable_groups)
