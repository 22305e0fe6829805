"""The scaling law of each phase of a run, whose constants are fitted to rehearsals.

A law names the amounts of work that determine the time of a phase, such as the items that a rank encodes; its constants
are the seconds per unit of each amount. They are fitted to the rehearsals, with equal weight on the relative error of
each rehearsal, and none is below 0. Only as many amounts are used as the rehearsals can tell apart: first the one that
grows most from the largest rehearsal to the requested size, then a fixed cost, then the others. A single rehearsal
therefore attributes all its time to the amount that grows most, so that the estimate is an upper bound.

Designs considered. A table of device speeds: nobody has measured them for this model. The operations divided by the
peak speed of a device: a step over few items is limited by kernel launches, not by arithmetic. A free exponent for each
phase: with two sizes, the fit mistakes a fixed cost for a law. Chosen: laws that follow from the code, each checked by
predicting the largest rehearsal from the others. The laws are linear, except for content similarity, which compares
items with each other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from transrec.evidence.closest import comparisons
from transrec.planning.setting import Setting, known_number

Amounts = Mapping[str, float]  # the work of a phase that is entered once, by name
FIXED = "fixed"
REPEATED = frozenset({"validation", "encoding", "checkpoint", "export"})  # phases that a run may enter several times
_TELLS_APART = 0.05  # smallest allowed singular value of the rehearsals' amounts, whose columns have length 1


@dataclass(frozen=True)
class Law:
    """The amounts of work that determine the time of a phase, and the words for them."""

    phase: str
    amounts: Callable[[Setting], Amounts]
    words: str  # for what grows most


@dataclass(frozen=True)
class Estimate:
    """Seconds of a phase that is entered once."""

    seconds: float
    at_most: float  # if all time of the largest rehearsal grew like the amount that grows most


def estimate(wanted: Amounts, known: Sequence[tuple[Amounts, float]]) -> Estimate:
    """The time for the amounts `wanted`, from the amounts and seconds of rehearsals, the largest last."""
    names = _told_apart(wanted, known)
    rows = np.array([[amounts[name] for name in names] for amounts, _ in known], dtype=float)
    seconds = np.array([max(took, 1e-9) for _, took in known])
    scale = rows.max(axis=0)
    constants, _ = nnls(rows / scale / seconds[:, None], np.ones(len(known)))
    largest, took = known[-1]
    growth = max(_growth(name, wanted, largest) for name in wanted)
    expected = float(sum(c * wanted[name] / s for c, name, s in zip(constants, names, scale, strict=True)))
    return Estimate(expected, max(expected, took * growth))


def _told_apart(wanted: Amounts, known: Sequence[tuple[Amounts, float]]) -> list[str]:
    """The amounts that the rehearsals can tell apart: the one that grows most, then the fixed cost, then the others."""
    largest = known[-1][0]
    ordered = sorted(wanted, key=lambda name: -_growth(name, wanted, largest))
    ordered[1:] = sorted(ordered[1:], key=lambda name: name != FIXED)
    kept: list[str] = []
    for name in ordered:
        tried = np.array([[amounts[each] for each in (*kept, name)] for amounts, _ in known], dtype=float)
        lengths = np.linalg.norm(tried, axis=0)
        if not lengths.all() or len(kept) == len(known):
            continue
        if np.linalg.svd(tried / lengths, compute_uv=False)[-1] > _TELLS_APART:
            kept.append(name)
    return kept or ordered[:1]


def _growth(name: str, wanted: Amounts, largest: Amounts) -> float:
    return wanted[name] / largest[name] if largest[name] else 0.0


def _over_ranks(name: str, number: Callable[[Setting], float]) -> Callable[[Setting], Amounts]:
    return lambda setting: {FIXED: 1, name: number(setting) / setting.ranks}


def _over_node(setting: Setting) -> Amounts:
    return {FIXED: 1, "items": setting.items / setting.ranks_of_a_node}


def _of_interactions(setting: Setting) -> Amounts:
    return {FIXED: 1, "interactions": known_number(setting.interactions)}


def _of_shared_interactions(setting: Setting) -> Amounts:
    return {FIXED: 1, "interactions": known_number(setting.interactions) / setting.ranks_of_a_node}


def _of_comparisons(setting: Setting) -> Amounts:
    return {FIXED: 1, "comparisons": comparisons(setting.items, setting.ranks_of_a_node)}


def _answers(setting: Setting, questions: int) -> Amounts:
    return {"questions": questions / setting.ranks, "scores": questions * setting.items / setting.ranks}


def _epoch(setting: Setting) -> Amounts:
    windows, updated = known_number(setting.windows), setting.parameters.dense
    owners = setting.ranks if setting.experiment.zero.stage else 1
    return {
        "work": windows * (setting.operations or 1) / setting.ranks,
        "updates": known_number(setting.steps) * updated / owners,
    }


def _asked(setting: Setting) -> tuple[int, int]:
    assert setting.asked is not None, "a rehearsal gives all sizes"
    return setting.asked


LAWS = {
    law.phase: law
    for law in (
        Law("start", lambda s: {FIXED: 1, "items": s.items, "parameters": s.parameters.total}, "items, parameters"),
        Law("scan", _over_ranks("interactions", lambda s: known_number(s.interactions)), "interactions / rank"),
        Law("tokenising", _over_node, "items / process"),
        Law("decoding", _over_node, "items / process"),
        Law("computing states", _over_node, "items / process"),
        *(
            Law(f"{step} {name}", _of_shared_interactions, "interactions / process")
            for name in ("item_to_item", "transitions", "co_occurrence")
            for step in ("pairs", "evidence")
        ),
        Law("evidence content_similarity", _of_comparisons, "items^1.5"),
        Law("evidence cold_similarity", _of_comparisons, "items^1.5"),
        Law("counts", _of_interactions, "interactions"),
        Law("first step", lambda s: {FIXED: 1}, "nothing"),
        Law("steps", _epoch, "operations / rank"),
        Law("encoding", _over_ranks("items", lambda s: s.items), "items / rank"),
        Law("validation", lambda s: _answers(s, _asked(s)[0]), "questions × items / rank"),
        Law("checkpoint", lambda s: {FIXED: 1, "parameters": s.parameters.trainable}, "parameters"),
        Law("fitting", lambda s: {FIXED: 1}, "nothing"),
        Law("test", lambda s: _answers(s, sum(_asked(s))), "questions × items / rank"),
        Law("results", lambda s: {FIXED: 1, "questions": _asked(s)[1]}, "questions"),
        Law("export", lambda s: {FIXED: 1, "parameters": exported(s)}, "parameters"),
        Law("baselines", lambda s: _answers(s, _asked(s)[1]), "questions × items / rank"),
    )
}


def exported(setting: Setting) -> int:
    """The number of parameters in the export."""
    parameters = setting.parameters
    return parameters.total if parameters.trainable == parameters.total else parameters.trainable
