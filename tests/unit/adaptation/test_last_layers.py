import pytest
import torch

from transrec import weights
from transrec.adaptation import CombinedConfig
from transrec.adaptation.selective import BitFitConfig, LastLayersConfig
from transrec.config import ConfigError
from transrec.data.batch import Targets
from transrec.item_encoders.id_embedding import IdEmbeddingConfig
from transrec.models.sequential_recommender import SequentialRecommenderConfig
from transrec.objectives.classification import ClassificationConfig
from transrec.user_encoders.nextitnet import NextItNetConfig
from transrec.user_encoders.sasrec import SASRecConfig

TASK = {"task.token.weight", "task.targets.weight"}


def trained(method, user_encoder):
    torch.manual_seed(0)
    model = SequentialRecommenderConfig(
        width=4,
        max_length=5,
        item_encoder=IdEmbeddingConfig(),
        user_encoder=user_encoder,
        objective=ClassificationConfig(),
    ).build(num_items=9)
    model.answer(Targets(3, of_items=False))
    method.apply(model)
    return set(weights.trainable_names(model))


def of_convolution(block, half):
    parts = (f"conv{half}.linear", f"norm{half}")
    return {f"user_encoder.blocks.{block}.{part}.{leaf}" for part in parts for leaf in ("weight", "bias")}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(0, set()), (1, of_convolution(1, 2)), (3, of_convolution(1, 2) | of_convolution(1, 1) | of_convolution(0, 2))],
)
def test_the_head_of_the_task_and_the_last_convolutions_train(layers, expected):
    assert trained(LastLayersConfig(layers=layers), NextItNetConfig(dilations=[1, 4])) == TASK | expected


def test_of_a_transformer_whole_blocks_train():
    names = trained(LastLayersConfig(layers=1), SASRecConfig(layers=2))
    assert names > TASK
    assert all(name.startswith("user_encoder.blocks.1.") for name in names - TASK)


def test_more_layers_than_there_are_is_explained():
    with pytest.raises(ConfigError, match="is 5, but the user encoder has only 4"):
        trained(LastLayersConfig(layers=5), NextItNetConfig(dilations=[1, 4]))


def test_it_combines_with_other_methods():
    both = CombinedConfig(methods=[LastLayersConfig(layers=1), BitFitConfig(towers=["user"])])
    names = trained(both, NextItNetConfig(dilations=[1, 4]))
    assert of_convolution(1, 2) | TASK < names
    assert "user_encoder.blocks.0.conv1.linear.bias" in names
    assert "user_encoder.blocks.0.conv1.linear.weight" not in names
