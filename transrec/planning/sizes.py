"""The bytes of a run: memory of a rank, disk space, and reads from storage.

The state of the model by ZeRO stage, the vectors of the catalogue, checkpoints, exports and decoded images follow from
the configuration. The rest is taken from a rehearsal: the memory of activations and libraries, and the bytes of users
and items.
"""

from dataclasses import dataclass

from transrec.data.shards.schema import ShardSetError
from transrec.data.shards.shard_folder import ShardFolder
from transrec.evidence.co_occurrence import CoOccurrenceConfig
from transrec.evidence.pair_counts import PairCountsConfig
from transrec.evidence.pair_files import BYTES
from transrec.evidence.transitions import TransitionsConfig
from transrec.experiment import Experiment
from transrec.planning.laws import exported
from transrec.planning.rehearsal import Rehearsal
from transrec.planning.setting import Setting
from transrec.runs.build import size_of_set

BYTES_OF_A_NUMBER = 4
_MOMENTS = 2  # numbers of Adam's state for each parameter
_OFFSET = 8  # bytes of the offset of an item's tokens
_COUNTS_OF_THE_SCAN = 4 * 8  # bytes for each item: two counts, and two more while ranks add them up
_KEPT = 3  # checkpoints: the last, the best, and the one being written

_COUNTED: dict[str, PairCountsConfig] = {
    "pairs transitions": TransitionsConfig(),
    "pairs co_occurrence": CoOccurrenceConfig(),
}


@dataclass(frozen=True)
class Places:
    """The bytes that a phase takes; None if they are unknown, or if it takes none."""

    memory: int | None = None  # of a rank
    disk: int | None = None  # in the cache of a node, or in the run folder
    storage: int | None = None  # read by all nodes together


def places(phase: str, setting: Setting, largest: Rehearsal | None) -> Places:
    """The bytes of a phase that is entered once."""
    files, parameters = _files(setting, largest), setting.parameters
    state = sum(memory(setting, setting.experiment.zero.stage, largest).values())
    if phase == "start":
        tables = round((files["catalogue"] + files["blocks"]) * setting.nodes) if files else None
        return Places(BYTES_OF_A_NUMBER * parameters.total, None, tables)
    if phase == "scan":
        return Places(_COUNTS_OF_THE_SCAN * (setting.items + 1), None, round(files["users"]) if files else None)
    if phase in {"tokenising", "decoding"}:
        return Places(None, _filled(phase, setting, largest), round(files["items"] * setting.nodes) if files else None)
    if phase in _COUNTED:
        return Places(None, _pairs(phase, setting))
    if phase in {"computing states", "counts"} or phase.startswith("evidence "):
        return Places(None, _filled(phase, setting, largest))
    if phase == "steps":
        return Places(state, None, round(files["users"]) if files else None)
    if phase in {"encoding", "validation", "test"}:
        return Places(state + BYTES_OF_A_NUMBER * setting.width * (setting.items + 1))
    if phase == "checkpoint":
        each = BYTES_OF_A_NUMBER * (1 + _MOMENTS) * parameters.trainable
        return Places(each // setting.ranks, _KEPT * each)
    if phase == "export":
        return Places(None, BYTES_OF_A_NUMBER * exported(setting))
    return Places()


def memory(setting: Setting, stage: int, largest: Rehearsal | None) -> dict[str, int]:
    """Bytes of a rank under a ZeRO stage, by what they hold; the `rest` is that of the largest rehearsal."""
    found = state_bytes(setting, stage)
    if largest is not None:
        then = sum(state_bytes(largest.setting, largest.setting.experiment.zero.stage).values())
        found["rest"] = max(0, int(largest.summary["peak_memory_bytes"]) - then)
    return found


def state_bytes(setting: Setting, stage: int) -> dict[str, int]:
    """Bytes of weights, gradients and optimizer state on a rank (Rajbhandari et al., 2020)."""
    parameters, experiment = setting.parameters, setting.experiment
    half = experiment.train.precision in ("fp16", "bf16_weights")
    number = BYTES_OF_A_NUMBER // 2 if half else BYTES_OF_A_NUMBER
    share = [setting.ranks if stage >= least else 1 for least in (3, 2, 1)]
    return {
        "weights": (parameters.total - parameters.beside) * number // share[0] + parameters.beside * BYTES_OF_A_NUMBER,
        "gradients": parameters.dense * number // share[1],
        "optimizer": parameters.dense * BYTES_OF_A_NUMBER * (_MOMENTS + half) // share[2] + _state_of_tables(setting),
    }


def _state_of_tables(setting: Setting) -> int:
    """Bytes of the optimizer state of tables updated outside DeepSpeed, which every rank holds whole."""
    embedding, beside = setting.experiment.optimizer.embedding, setting.parameters.beside
    if embedding is None:
        return 0
    return BYTES_OF_A_NUMBER * (beside * _MOMENTS if embedding.name == "lazy_adam" else beside // setting.width)


def _files(setting: Setting, largest: Rehearsal | None) -> dict[str, float] | None:
    """The bytes of each kind of file in the data set, in proportion to interactions, users and items: scaled from the
    rehearsal's set or, without a rehearsal, from the configured set."""
    if largest is not None:
        then, of = largest.bytes_of, largest.phases["scan"]
    else:
        of = dict(set_of(setting.experiment))
        then = {kind: of.get(f"bytes_of_{kind}", 0) for kind in ("users", "items", "catalogue", "blocks")}
    if not of or setting.interactions is None:
        return None
    growth = {
        "users": setting.interactions / of["interactions"],
        "blocks": setting.users / of["users"],
        "items": setting.items / of["items"],
        "catalogue": setting.items / of["items"],
    }
    return {kind: then[kind] * growth[kind] for kind in growth}


def _filled(phase: str, setting: Setting, largest: Rehearsal | None) -> int | None:
    """Bytes that a fill leaves in the cache of a node: scaled from the rehearsal, or the most that settings allow."""
    found = None if largest is None else largest.phases.get(phase)
    if found is not None and largest is not None:
        return round(found.get("bytes", 0) * setting.items / largest.setting.items)
    content = setting.experiment.model.content()
    if phase == "tokenising":
        return setting.items * (BYTES_OF_A_NUMBER * int(content["text"].config.max_tokens) + _OFFSET)
    if phase == "decoding":
        return setting.items * 3 * int(content["image"].size) ** 2 if content["image"].decoded_cache else 0
    return None


def _pairs(phase: str, setting: Setting) -> int | None:
    """Bytes of the pairs of items that evidence keeps on disk while it counts them."""
    if setting.interactions is None:
        return None
    kind = type(_COUNTED[phase])
    asked: PairCountsConfig = next(
        (one for one in setting.experiment.model.looked_up() if isinstance(one, kind)), _COUNTED[phase]
    )
    return round(BYTES * asked.pairs(setting.interactions, setting.users))


def set_of(experiment: Experiment) -> dict[str, int]:
    """The size of the set of shards of a configuration; empty if it cannot be read."""
    try:
        folder = ShardFolder(experiment.data.path, experiment.data.cache, experiment.data.cache_bytes)
        return size_of_set(folder.index)
    except (ShardSetError, OSError):
        return {}
