"""The plan of a run: its pieces, how often each is entered, the time and bytes that it takes, and a check of its law.

Times come only from rehearsals (see `laws`), bytes from `sizes`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transrec.experiment import Experiment
from transrec.planning.laws import LAWS, REPEATED, Estimate, estimate
from transrec.planning.rehearsal import (
    Rehearsal,
    encoded_for_a_window,
    occurrences_in_a_window,
    operations,
    read_rehearsals,
)
from transrec.planning.setting import ParameterCount, Setting, known_number
from transrec.planning.sizes import BYTES_OF_A_NUMBER, Places, memory, places, set_of

STAGES = (0, 1, 2, 3)
_NAMES = {"steps": "epoch", "encoding": "catalogue"}
_NAMES |= {"tokenising": "fill: tokens", "decoding": "fill: pixels", "computing states": "fill: states"}
_NAMES |= {"counts": "fill: counts"}
_NAMES |= {f"pairs {name}": f"fill: pairs of {name}" for name in ("item_to_item", "transitions", "co_occurrence")}
_NAMES |= {
    f"evidence {name}": f"fill: {name}"
    for name in ("item_to_item", "transitions", "co_occurrence", "content_similarity", "cold_similarity")
}
_FILLS = {"text": "tokenising", "image": "decoding"}
_TOO_SHORT = 0.5  # seconds; shorter times are not compared with a law
WITHIN = 1.5  # factor by which a prediction may be off


@dataclass(frozen=True)
class Piece:
    """One piece of a run; unknown values are None."""

    name: str
    phase: str
    times: float | None  # how often the phase is entered, at most
    time: Estimate | None  # of entering it once
    law: str  # amounts that its time grows with
    bytes: Places


@dataclass(frozen=True)
class Check:
    """The time of a piece in the largest rehearsal, as measured and as predicted from the other rehearsals."""

    name: str
    predicted: float  # seconds
    measured: float
    processor_ratio: float  # predicted over measured, in processor seconds

    @property
    def ratio(self) -> float:
        """Predicted over measured seconds."""
        return self.predicted / max(1e-9, self.measured)

    @property
    def verdict(self) -> str:
        if max(self.predicted, self.measured) < _TOO_SHORT:
            return "too short to judge"
        if self.ratio > WITHIN:
            return f"beyond {WITHIN}×: less than predicted"
        return "ok" if self.ratio >= 1 / WITHIN else f"beyond {WITHIN}×: grows faster than its law"


@dataclass(frozen=True)
class Plan:
    """The plan of a run at a size that nobody has run yet."""

    setting: Setting
    device: str  # of the rehearsals; empty if there are none
    pieces: list[Piece]
    memory: dict[int, dict[str, int]]  # by ZeRO stage: bytes of a rank by what they hold
    checks: list[Check]
    remarks: list[str]


def make_plan(
    experiment: Experiment,
    users: int,
    items: int,
    nodes: int,
    ranks_of_a_node: int,
    interactions_of_a_user: float | None = None,
    runs: Sequence[Path] = (),
) -> Plan:
    """The plan of a run with this many users and items.

    Args:
        interactions_of_a_user: on average; None: as many as in the largest rehearsal.
        runs: folders of rehearsals.

    Raises:
        ConfigError: a run is not a rehearsal of this configuration.
    """
    model = experiment.model.known_from(runs[0] / "export") if runs else experiment.model
    parameters = ParameterCount(model, experiment)
    rehearsals = read_rehearsals(runs, experiment, parameters)
    bare = Setting(experiment, users, items, nodes * ranks_of_a_node, nodes, parameters(items))
    return plan_of(full_size(bare, interactions_of_a_user, rehearsals), rehearsals)


def plan_of(setting: Setting, rehearsals: Sequence[Rehearsal]) -> Plan:
    """The plan of a run of the size `setting`; the largest rehearsal is the last."""
    largest = rehearsals[-1] if rehearsals else None
    return Plan(
        setting,
        "" if largest is None else largest.device,
        [_piece(phase, setting, rehearsals) for phase in _phases(setting, rehearsals)],
        {stage: memory(setting, stage, largest) for stage in STAGES},
        _checks(setting, rehearsals),
        _remarks(setting, largest),
    )


def full_size(bare: Setting, interactions_of_a_user: float | None, rehearsals: Sequence[Rehearsal]) -> Setting:
    """The requested size, with the numbers that follow from it; users have as many interactions as given or, by
    default, as in the largest rehearsal."""
    experiment, users = bare.experiment, bare.users
    if not rehearsals:
        known = set_of(experiment)
        each = interactions_of_a_user or (known["interactions"] / known["users"] if known else None)
        return replace(bare, interactions=None if each is None else round(users * each))
    small = rehearsals[-1]
    then = known_number(small.setting.interactions) / small.setting.users
    each = interactions_of_a_user or then
    windows = known_number(small.setting.windows) / small.setting.users
    windows *= _windows(experiment, each) / _windows(experiment, then)
    return replace(
        bare,
        interactions=round(users * each),
        windows=round(users * windows),
        asked=_asked(experiment, users, small),
        operations=_operations(experiment, bare.items, small),
    )


def _windows(experiment: Experiment, interactions: float) -> float:
    """The approximate number of windows of a user with this many interactions, two of which are held out."""
    if experiment.data.windows == "last":
        return 1.0
    return max(1.0, (interactions - 2) / (experiment.data.stride or experiment.model.max_length))


def _asked(experiment: Experiment, users: int, small: Rehearsal) -> tuple[int, int]:
    """The numbers of questions of a validation and of the test: as many per user as in the rehearsal if it asked about
    all users, otherwise at most one."""
    evaluation, then = experiment.evaluation, small.setting
    assert then.asked is not None
    limits = (evaluation.validation_users or evaluation.users, evaluation.users)
    sampled = small.summary.get("samples", {})
    found = []
    for part, limit, asked in zip(("valid", "test"), limits, then.asked, strict=True):
        number = users if part in sampled else round(users * asked / then.users)
        found.append(number if limit is None else min(number, limit))
    return found[0], found[1]


def _operations(experiment: Experiment, items: int, small: Rehearsal) -> float | None:
    """The operations for a window, at most, as if no two windows shared an item. If the pool grows with the catalogue,
    all operations are assumed to grow with it."""
    sampling, then = experiment.model.sampling, small.summary
    if sampling.pool == "catalogue" or sampling.candidates:
        found = operations(then, encoded_for_a_window(then))
        return None if found is None else found * max(1.0, items / small.setting.items)
    return operations(then, max(occurrences_in_a_window(then), encoded_for_a_window(then)))


def _phases(setting: Setting, rehearsals: Sequence[Rehearsal]) -> list[str]:
    """The phases of the run, in order: those that were rehearsed, and those that every run has."""
    optional = {phase for phase, name in _NAMES.items() if name.startswith("fill: ")}
    expected = {_FILLS[modality] for modality in setting.experiment.model.content()}
    rehearsed = {phase for one in rehearsals for phase in one.phases}
    asked = setting.experiment.evaluation.baselines
    if asked is not None and "blend" not in asked:
        made = {*asked, *(one.name for one in setting.experiment.model.looked_up())}
        rehearsed = {phase for phase in rehearsed if not _makes_evidence(phase) or phase.split()[1] in made}
    if not setting.experiment.model.looked_up():
        optional.add("fitting")
    if asked == []:
        optional.add("baselines")
        rehearsed -= {"baselines"}
    return [phase for phase in LAWS if phase not in optional or phase in expected | rehearsed]


def _makes_evidence(phase: str) -> bool:
    return phase.startswith(("pairs ", "evidence "))


def _piece(phase: str, setting: Setting, rehearsals: Sequence[Rehearsal]) -> Piece:
    law, known = LAWS[phase], _known(phase, _alike(phase, setting, rehearsals))
    time = estimate(law.amounts(setting), known) if known else None
    taken = places(phase, setting, rehearsals[-1] if rehearsals else None)
    return Piece(_NAMES.get(phase, phase), phase, _times(phase, setting), time, law.words, taken)


def _known(
    phase: str, rehearsals: Sequence[Rehearsal], clock: str = "seconds"
) -> list[tuple[Mapping[str, float], float]]:
    """The amounts and the seconds of a phase in the rehearsals that had it."""
    taken = ((one.amounts(phase), one.measured(phase, clock)) for one in rehearsals)
    return [(amounts, seconds) for amounts, seconds in taken if seconds is not None]


def _alike(phase: str, setting: Setting, rehearsals: Sequence[Rehearsal]) -> Sequence[Rehearsal]:
    """The rehearsals whose phase is comparable with the run's: for `baselines`, those with the same baselines."""
    asked = setting.experiment.evaluation.baselines
    if phase != "baselines" or not rehearsals:
        return rehearsals
    wanted = rehearsals[-1].baselines if asked is None else {*asked}
    return [one for one in rehearsals if one.baselines == wanted]


def _checks(setting: Setting, rehearsals: Sequence[Rehearsal]) -> list[Check]:
    found = []
    for phase in LAWS:
        clocks = []
        for clock in ("seconds", "processor_seconds"):
            known = _known(phase, _alike(phase, setting, rehearsals), clock)
            *others, (amounts, measured) = known or [({}, 0.0)]
            if others:
                clocks.append((estimate(amounts, others).seconds, measured))
        if len(clocks) == 2:
            (predicted, measured), (busy_predicted, busy) = clocks
            ratio = busy_predicted / max(1e-9, busy)
            found.append(Check(_NAMES.get(phase, phase), predicted, measured, ratio))
    return found


def _times(phase: str, setting: Setting) -> float | None:
    """How often a phase is entered in the run, at most."""
    epochs, train = setting.epochs, setting.experiment.train
    if phase == "steps":
        return epochs
    if phase not in REPEATED:
        return 1
    if epochs is None or setting.steps is None:
        return None
    steps = epochs * setting.steps

    def due(every: Any) -> int:
        return 0 if every == "never" else math.ceil(epochs if every == "epoch" else steps / every)

    validations = due(train.evaluate_every)
    if phase == "validation":
        return validations
    if phase == "encoding":
        return validations + 2 + bool(setting.experiment.model.looked_up())  # final validation, test, fitting
    return max(1, validations + (due(train.checkpoint_every) if phase == "checkpoint" else 0))


def _remarks(setting: Setting, largest: Rehearsal | None) -> list[str]:
    found = []
    if largest is None:
        found.append("Times need a rehearsal: train this configuration on a small set, and give its run with --run.")
    else:
        found.append(f"Times are those of {largest.device}, on which the rehearsals ran.")
        now, then = setting.experiment.train.batch_size / setting.ranks, largest.windows_of_a_rank()
        if not 1 / 2 <= now / then <= 2:
            found.append(
                f"A rank trains on {now:,.3g} windows per step, but on {then:,.3g} in the rehearsal: the time of a "
                f"step is not proportional. Set train.batch_size={round(then * setting.ranks)}, or rehearse with "
                f"train.batch_size={max(1, round(now * largest.setting.ranks))}."
            )
    if setting.ranks > 1 and (largest is None or largest.setting.ranks != setting.ranks):
        exchanged = BYTES_OF_A_NUMBER * setting.parameters.dense * (3 if setting.experiment.zero.stage == 3 else 2)
        sent = exchanged * (setting.ranks - 1) / setting.ranks / 2**20
        found.append(
            f"A rank also sends {sent:,.1f} MiB in each step; rehearsals on fewer ranks do not show the time for it."
        )
    if setting.experiment.model.sampling.pool == "catalogue":
        found.append("The objective scores the whole catalogue in each step: for many items, choose sampled_softmax.")
    return found
