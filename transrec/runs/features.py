"""The vocabularies of a run's features, taken over from the run that it starts from or counted in its training data."""

from typing import Any

import numpy as np

from transrec.config import ConfigError
from transrec.data.examples.feature_rows import FeatureRows, count
from transrec.data.examples.impressions import ImpressionExamples
from transrec.experiment import Experiment
from transrec.features.vocabulary import Values
from transrec.models.ranking_model import RankingModelConfig
from transrec.protocols import Examples
from transrec.runs.run_folder import load


def count_features(experiment: Experiment, examples: Examples) -> Any:
    """The model's settings with the vocabularies of its features, which `examples` use from now on.

    Raises:
        ConfigError: an id feature taken over from `init_from` knows none of these users or items.
    """
    model = experiment.model
    if not isinstance(model, RankingModelConfig) or not isinstance(examples, ImpressionExamples):
        return model
    source = _source(experiment)
    inherited = {} if source is None else _inherited(source, experiment)
    fresh = {name: feature for name, feature in model.features.items() if name not in inherited}
    counted = count(examples.folder, fresh, examples.popularity, examples.training)
    known = model.with_vocabularies({name: (inherited | counted)[name] for name in model.features})
    axes = {} if source is None or not model.principal_components else source.axes
    known = known.model_copy(update={"rates": _rates(examples), "axes": axes})
    use_features(known, examples)
    _check_known(known, examples, inherited)
    return known


def _rates(examples: ImpressionExamples) -> list[float]:
    """For each head, the share of positive labels among the training impressions in which its label was observed."""
    labels = np.concatenate([shown.labels for _, shown in examples.training()])
    answers, observed = np.nansum(labels, axis=0), (~np.isnan(labels)).sum(axis=0)
    rates: list[float] = (answers / np.maximum(observed, 1)).tolist()
    return rates


def use_features(model: Any, examples: Examples) -> None:
    """Add the features of a model whose vocabularies are known to the batches and questions of `examples`."""
    if isinstance(model, RankingModelConfig) and isinstance(examples, ImpressionExamples):
        examples.features = FeatureRows.of(examples.folder, model.features, model.vocabularies)


def _source(experiment: Experiment) -> RankingModelConfig | None:
    """The settings of the ranking model whose weights come from `init_from`."""
    if experiment.init_from is None:
        return None
    source: Any = load(experiment.init_from).model.known_from(experiment.init_from / "export")
    return source if isinstance(source, RankingModelConfig) else None


def _inherited(source: RankingModelConfig, experiment: Experiment) -> dict[str, Any]:
    """The vocabularies of the features whose weights come from `init_from`."""
    left_out = {name.removeprefix("features.") for name in experiment.init_except}
    return {name: known for name, known in source.vocabularies.items() if name not in left_out}


def _check_known(model: RankingModelConfig, examples: ImpressionExamples, inherited: dict[str, Any]) -> None:
    for name, rows in examples.features.items.items():
        if name in inherited and isinstance(inherited[name], Values) and not rows.any():
            raise ConfigError(
                f"`init_from`: the source's feature {name} knows none of the values of these items: train the feature "
                f"from scratch with `init_except=[features.{name}]`"
            )
