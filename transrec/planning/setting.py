"""The size of a run, which determines its time and memory.

Shape letters: N items of the catalogue.
"""

from dataclasses import dataclass

from transrec.experiment import Experiment
from transrec.nn.parameter_groups import members
from transrec.protocols import ModelSettings

_FEW, _MORE = 2, 3  # items of two tiny catalogues, whose parameters are extrapolated to any catalogue


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of a model."""

    total: int
    trainable: int
    beside: int = 0  # trainable ones in tables that DeepSpeed does not see (`optimizer.embedding`)

    @property
    def dense(self) -> int:
        """The number of parameters that every step updates."""
        return self.trainable - self.beside


class ParameterCount:
    """The number of parameters of a run with a catalogue of any size, without the head of a task.

    Designs considered. Closed forms by kind of model: they cover only the models that they were written for. Building
    the model on the meta device: pretrained backbones cannot be loaded there. Chosen: building the model for two tiny
    catalogues, because each item adds the same number of parameters.

    Args:
        model: the settings of the run's model, including any that training counts, such as vocabularies.
    """

    def __init__(self, model: ModelSettings, experiment: Experiment) -> None:
        self._few, self._more = (_count(model, experiment, items) for items in (_FEW, _MORE))

    def __call__(self, items: int) -> Parameters:
        """The parameters for a catalogue of `items` items."""
        pairs = zip(vars(self._few).values(), vars(self._more).values(), strict=True)
        return Parameters(*(few + (items - _FEW) * (more - few) // (_MORE - _FEW) for few, more in pairs))


def _count(settings: ModelSettings, experiment: Experiment, items: int) -> Parameters:
    model = settings.build(items)
    experiment.adaptation.apply(model)
    total = trainable = beside = 0
    for member in members(model):
        number = member.parameter.numel()
        total += number
        trainable += number * member.parameter.requires_grad
        beside += number * (member.parameter.requires_grad and member.table is not None)
    return Parameters(total, trainable, beside if experiment.optimizer.embedding is not None else 0)


@dataclass(frozen=True)
class Setting:
    """The size of a run; unknown values are None."""

    experiment: Experiment
    users: int
    items: int
    ranks: int
    nodes: int
    parameters: Parameters
    interactions: int | None = None
    windows: int | None = None  # of an epoch
    asked: tuple[int, int] | None = None  # questions of a validation and of the test
    operations: float | None = None  # floating-point operations for a window, forward and backward

    @property
    def ranks_of_a_node(self) -> int:
        return max(1, self.ranks // self.nodes)

    @property
    def steps(self) -> int | None:
        """Steps of an epoch."""
        return None if self.windows is None else -(-self.windows // self.experiment.train.batch_size)

    @property
    def epochs(self) -> float | None:
        """The maximum number of passes over the training data."""
        train, steps = self.experiment.train, self.steps
        if train.steps is None:
            return float(train.epochs)
        return None if steps is None else train.steps / steps

    @property
    def width(self) -> int:
        """The width of the item vectors."""
        return self.experiment.model.width


def known_number(value: float | None) -> float:
    """A number that is known because there is a rehearsal."""
    assert value is not None, "only a plan without a rehearsal lacks it"
    return value
