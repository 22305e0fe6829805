"""The plan of a run as tables, and as plain values for JSON."""

from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table

from transrec.planning.laws import Estimate
from transrec.planning.plan import Check, Piece, Plan

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def show(plan: Plan) -> Group:
    """The tables of a plan, with its remarks."""
    setting = plan.setting
    interactions = "" if setting.interactions is None else f", {setting.interactions:,} interactions"
    title = (
        f"{setting.users:,} users, {setting.items:,} items{interactions}; {setting.nodes} nodes, {setting.ranks} ranks"
    )
    parts: list[Any] = [title, _pieces(plan), _memory(plan)]
    if plan.checks:
        parts.append(_checks(plan.checks))
    return Group(*parts, *plan.remarks)


def _pieces(plan: Plan) -> Table:
    view = Table("piece", "times", "one takes", "at most", "grows with", "memory, rank", "disk", "from storage")
    for piece in plan.pieces:
        time = piece.time
        times = "?" if piece.times is None else f"{piece.times:,.3g}"
        taken = ("?", "?") if time is None else (duration(time.seconds), duration(time.at_most))
        sizes = (piece.bytes.memory, piece.bytes.disk, piece.bytes.storage)
        view.add_row(piece.name, times, *taken, piece.law, *("" if size is None else in_bytes(size) for size in sizes))
    whole = total(plan.pieces)
    if whole is not None:
        view.add_row("all", "", duration(whole.seconds), duration(whole.at_most), "", "", "", "")
    return view


def _memory(plan: Plan) -> Table:
    own = plan.setting.experiment.zero.stage
    names = list(next(iter(plan.memory.values())))
    view = Table("memory of a rank", *(f"stage {stage}{' (here)' * (stage == own)}" for stage in plan.memory))
    for name in names:
        view.add_row(name, *(in_bytes(found[name]) for found in plan.memory.values()))
    view.add_row("together", *(in_bytes(sum(found.values())) for found in plan.memory.values()))
    return view


def _checks(checks: list[Check]) -> Table:
    view = Table("the largest rehearsal", "predicted", "measured", "ratio", "of processor time", "")
    for check in checks:
        times = duration(check.predicted), duration(check.measured)
        view.add_row(check.name, *times, f"{check.ratio:.2f}", f"{check.processor_ratio:.2f}", check.verdict)
    return view


def total(pieces: list[Piece]) -> Estimate | None:
    """The time of the whole run; None if a piece is not known."""
    expected = at_most = 0.0
    for piece in pieces:
        if piece.time is None or piece.times is None:
            return None
        expected, at_most = expected + piece.times * piece.time.seconds, at_most + piece.times * piece.time.at_most
    return Estimate(expected, at_most)


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan in seconds and bytes."""
    setting, whole = plan.setting, total(plan.pieces)
    return {
        "users": setting.users,
        "items": setting.items,
        "interactions": setting.interactions,
        "nodes": setting.nodes,
        "ranks": setting.ranks,
        "parameters": asdict(setting.parameters),
        "device": plan.device or None,
        "pieces": [_piece_as_json(piece) for piece in plan.pieces],
        "seconds": None if whole is None else whole.seconds,
        "at_most": None if whole is None else whole.at_most,
        "memory": {f"stage {stage}": found for stage, found in plan.memory.items()},
        "checks": [asdict(check) | {"ratio": check.ratio, "verdict": check.verdict} for check in plan.checks],
        "remarks": plan.remarks,
    }


def _piece_as_json(piece: Piece) -> dict[str, Any]:
    time = {"seconds": None, "at_most": None} if piece.time is None else asdict(piece.time)
    return {"name": piece.name, "times": piece.times, **time, "grows_with": piece.law, "bytes": asdict(piece.bytes)}


def duration(seconds: float) -> str:
    """`90` -> `1.5 min`."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 0.01 else "0 s"


def in_bytes(number: float) -> str:
    """`3072` -> `3 KiB`."""
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            return f"{number:,.3g} {unit}"
        number /= 1024
    raise AssertionError
