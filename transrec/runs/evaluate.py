"""Evaluation of trained models on the held-out items of their own or other data."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transrec.config import ConfigError, validate
from transrec.data.content.opening import open_store
from transrec.data.examples import DataConfig
from transrec.data.examples.histories import open_folder
from transrec.data.shards import bad_samples
from transrec.data.shards.remote import parse_place
from transrec.distributed.world import World
from transrec.evaluation.estimates import Estimate
from transrec.evaluation.evaluator import EvaluationConfig, Evaluator, UserResults
from transrec.evaluation.groups import Groups, groups_as_json, of_each
from transrec.evaluation.report import as_json
from transrec.protocols import Examples, Part
from transrec.runs.baselines import baselines
from transrec.runs.channels import Channel, Channels
from transrec.runs.evidence import look_up
from transrec.runs.export import read_export
from transrec.runs.features import use_features
from transrec.runs.rebuild import check_targets
from transrec.runs.summary import USERS_FILE, save_users


@dataclass(frozen=True)
class Result:
    """The metrics of one model on one part of a data set."""

    channel: Channel
    part: Part
    data: DataConfig
    examples: Examples
    evaluation: EvaluationConfig
    found: UserResults

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """Estimates by name: the metrics of `evaluation`, and "loss"."""
        return self.found.estimates

    @property
    def sample(self) -> str:
        """A description of the evaluated users; empty if all users were evaluated."""
        return "" if self.found.sample is None else str(self.found.sample)

    @cached_property
    def groupings(self) -> Mapping[str, Groups]:
        """The metrics by group of questions; empty unless the run was trained on the same data, which defines them."""
        trained_on = read_export(self.channel.export).shards_sha256
        own = trained_on is None and self.data.path == self.channel.experiment.data.path  # an older export
        if not own and trained_on != self.examples.folder.index_sha256:
            return {}
        return self.groups(self.found)

    def groups(self, results: UserResults) -> Mapping[str, Groups]:
        """The metrics of results on the same questions, by group."""
        return Evaluator(self.evaluation, self.examples, World()).groups(results)

    def as_json(self) -> dict[str, Any]:
        """`{"run": …, "data": …, "test": {"HR@10": value, "HR@10_interval": [low, high], …}}`, with "of" if users
        were sampled, and with the groups."""
        place = {"run": str(self.channel.folder), "data": str(self.examples.folder)}
        place |= {"of": self.sample} if self.sample else {}
        groupings = {name: groups_as_json(groups) for name, groups in self.groupings.items()}
        return place | {self.part: as_json(self.estimates)} | groupings


def evaluate(
    channels: Channels,
    channel: Channel,
    config: DataConfig,
    part: Part,
    world: World,
    metrics: Sequence[str] | None = None,
) -> Result:
    """Rank the held-out items of the data that `config` describes; every rank of `world` must call it.

    Args:
        metrics: names of metrics to compute; None: those of the run's configuration.

    Raises:
        ConfigError: a metric is unknown or belongs to another kind of example, or the model embeds the item ids of
            another catalogue, or has other targets.
    """
    experiment = channel.experiment
    evaluation = _with_metrics(experiment.evaluation, metrics)
    examples = config.scan(experiment.model.max_length, world)
    check_targets(channel.export, examples)
    look_up(experiment.model, examples, world)
    use_features(channel.model, examples)
    model = channels.build(channel, examples.folder.index)
    store = open_store(examples.folder, channel.model.content(), config, world)
    found = Evaluator(evaluation, examples, world).users(model, store, part)
    if world.is_main:
        bad_samples.warn(examples.skipped, store.skipped)
        for remark in examples.remarks(part):
            print(remark, file=sys.stderr)
    return Result(channel, part, config, examples, evaluation, found)


def _with_metrics(evaluation: EvaluationConfig, metrics: Sequence[str] | None) -> EvaluationConfig:
    if metrics is None:
        return evaluation
    try:
        return validate(EvaluationConfig, evaluation.model_dump() | {"metrics": list(metrics)})
    except ConfigError as error:
        raise ConfigError(re.sub(r"`metrics[\d.]*`: ", "", str(error))) from None


def check_own_tests(channels: Channels, places: Sequence[DataConfig]) -> None:
    """Refuse to save results by user that are not those of the runs' own tests.

    Args:
        places: the data that each channel will be tested on.

    Raises:
        ConfigError: a channel is an export without its run folder, or was trained on other data.
    """
    for channel, config in zip(channels.members, places, strict=True):
        if not channel.has_data:
            raise ConfigError(
                f"{channel.folder} is not in its run folder, where --save-users saves results: leave it out"
            )
        trained_on, place = read_export(channel.export).shards_sha256, open_folder(config)
        if trained_on not in (None, place.index_sha256):
            raise ConfigError(
                f"{channel.folder} was trained on shards other than {place}, so the run folder cannot hold this test: "
                "leave out --save-users"
            )


def save_tests(results: Sequence[Result]) -> None:
    """Save the results by user in the run folders, as a run does after its own test; only on the main process."""
    for result in results:
        save_users(result.channel.export.parent / USERS_FILE, result.examples, result.found)


def data_of(channel: Channel, data: Path | str | None = None) -> DataConfig:
    """The data that a channel was trained on, or the same settings with the shards at `data`, a folder or a URL.

    Raises:
        ConfigError: `data` is None, and the channel is an export without its run folder, or its shards are missing
            or are not those it was trained on.
    """
    own = channel.experiment.data
    if data is not None:
        return own.model_copy(update={"path": parse_place(data)})
    if not channel.has_data:
        raise ConfigError(f"{channel.folder} is not in its run folder: name shards with --data")
    check_shards(channel.folder, own, "--data")
    trained_on, place = read_export(channel.export).shards_sha256, open_folder(own)
    if trained_on not in (None, place.index_sha256):
        raise ConfigError(
            f"{channel.folder} was trained on shards other than {place}: name the shards to evaluate on with --data"
        )
    return own


def check_shards(run: Path, data: DataConfig, option: str) -> None:
    """
    Raises:
        ConfigError: the shards that a run was trained on have moved; the message refers to the command's `option`.
    """
    if isinstance(data.path, Path) and not data.path.exists():
        raise ConfigError(f"the shards of {run} are no longer at {data.path}: name their folder with {option}")


@dataclass(frozen=True)
class Section:
    """Results on the same data with the same metrics, by name of the model; the baselines come first."""

    estimates: Mapping[str, Mapping[str, Estimate]]
    groupings: Mapping[str, Mapping[str, Groups]]


def tables(results: Sequence[Result], world: World) -> list[tuple[str, list[Section]]]:
    """The sections of one table for each combination of metrics and sample of users, in the order of the results.

    Each table has a description of the sample, empty if all users were evaluated. Every rank of `world` must call it.
    """
    alike: dict[str, list[Result]] = {}
    for result in results:
        alike.setdefault(repr((result.evaluation, result.sample)), []).append(result)
    return [(group[0].sample, sections(group, world)) for group in alike.values()]


def sections(results: Sequence[Result], world: World) -> list[Section]:
    """The results with the same data and metrics, below their baselines; every rank of `world` must call it."""
    alike: dict[str, list[Result]] = {}
    for result in results:
        alike.setdefault(repr((result.data, result.evaluation)), []).append(result)
    return [_section(members, world) for members in alike.values()]


def _section(results: Sequence[Result], world: World) -> Section:
    first = results[0]
    model = first.channel.experiment.model
    untrained = baselines(first.evaluation, model, first.examples, first.part, world)
    rows = {**untrained, **{result.channel.name: result.found for result in results}}
    estimates = {name: found.estimates for name, found in rows.items()}
    if not world.is_main or not all(result.groupings for result in results):
        return Section(estimates, {})
    of_baselines = {name: first.groups(found) for name, found in untrained.items()}
    return Section(estimates, of_each({**of_baselines, **{r.channel.name: r.groupings for r in results}}))
