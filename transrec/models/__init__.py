"""Models: what is trained, `forward(batch) -> losses`. Choose one by `name:`."""

from transrec.models.sequential_recommender import SequentialRecommenderConfig

ModelConfig = SequentialRecommenderConfig
