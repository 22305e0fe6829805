"""Models: modules whose `forward(batch)` returns losses by name. `name:` chooses one."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from transrec.models.ranking_model import RankingModelConfig
from transrec.models.sequential_recommender import SequentialRecommenderConfig


def _named(value: Any) -> Any:
    """Add the default `name`, that of the sequential recommender."""
    return {"name": "sequential_recommender", **value} if isinstance(value, dict) else value


ModelConfig = Annotated[
    Annotated[SequentialRecommenderConfig | RankingModelConfig, Field(discriminator="name")], BeforeValidator(_named)
]
