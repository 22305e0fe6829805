"""Adaptation: which parameters of a model learn, and what is added for that. Choose one by `name:`."""

from typing import Annotated

from pydantic import Field

from transrec.adaptation.bottleneck import HoulsbyConfig
from transrec.adaptation.selective import FullConfig, HeadOnlyConfig

AdaptationConfig = Annotated[FullConfig | HeadOnlyConfig | HoulsbyConfig, Field(discriminator="name")]
