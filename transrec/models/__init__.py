"""Models: a module whose `forward(batch)` gives losses by name. Choose one by `name:`."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from transrec.models.sequential_recommender import SequentialRecommenderConfig


def _named(value: Any) -> Any:
    """A model without a name is the sequential recommender."""
    return {"name": "sequential_recommender", **value} if isinstance(value, dict) else value


ModelConfig = Annotated[Annotated[SequentialRecommenderConfig, Field(discriminator="name")], BeforeValidator(_named)]
