"""Checkpoints of a small model in plain PyTorch, which is what DeepSpeed's engine is around at stage 0.

Other stages and numbers of ranks are trained and resumed in tests/integration.
"""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from safetensors.torch import load_file
from small_disk import SmallDisk
from torch import Tensor, nn

from transrec.distributed.world import World
from transrec.files import StorageError
from transrec.training import checkpoint, engine_state
from transrec.training.checkpoint import CheckpointError, Saving, TrainState

IDENTITY = {"frozen weights": "0a", "shards": "1b"}
ALONE = World()
FILE = "rank-00000-of-00001.safetensors"


class PlainEngine:
    """Two trained tensors and a frozen one, trained for some steps by AdamW."""

    def __init__(self, seed: int = 0, steps: int = 3, width: int = 4, dtype: torch.dtype = torch.float32) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2)).to(dtype)
        self.module[0].bias.requires_grad = False
        self.module[1].bias.requires_grad = False
        trained = [p for p in self.module.parameters() if p.requires_grad]
        groups = [{"params": [p], "weight_decay": decay} for p, decay in zip(trained, (0.1, 0.0), strict=True)]
        self.optimizer: Any = torch.optim.AdamW(groups, lr=0.1)
        self.basic_optimizer = self.optimizer
        for _ in range(steps):
            self.train()

    def zero_optimization(self) -> bool:
        return False

    def train(self) -> None:
        self.module(torch.tensor([[1.0, 2.0, 3.0]])).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.module.state_dict().items()}


class Scaled(PlainEngine):
    """With the loss scaler that ZeRO keeps beside its optimizer in fp16 training."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer.loss_scaler = DynamicLossScaler(2.0**16, 1000, 1.0, 2, False)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed's loss scalers ask for their rank, without a process group too."""
    monkeypatch.setattr("deepspeed.comm.get_rank", lambda group=None: 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def save(folder: Path, step: int, best_step: int = 0, engine: PlainEngine | None = None) -> Path:
    state = TrainState(step=step, best=0.25, best_step=best_step, evaluations_since_best=2, seconds=1.5)
    checkpoint.save(engine or PlainEngine(), folder, state, IDENTITY, ALONE)
    return folder / f"step-{step:08d}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same(one: PlainEngine, other: PlainEngine) -> bool:
    return all(tensor.equal(other.weights()[name]) for name, tensor in one.weights().items())


# What comes back


def test_state_weights_and_optimizer_come_back(folder: Path) -> None:
    """As many further steps then give the same bits: weights, moments and step count are all there."""
    trained, engine = PlainEngine(steps=3), PlainEngine(steps=0)
    path = save(folder, 10, 5, trained)
    assert checkpoint.latest(folder) == path
    state = checkpoint.load(engine, path, IDENTITY, ALONE)
    assert state == TrainState(step=10, best=0.25, best_step=5, evaluations_since_best=2, seconds=1.5)
    assert same(engine, trained)
    for one in (engine, trained):
        one.train()
    assert same(engine, trained)


@pytest.mark.parametrize(("best", "best_step", "found"), [(-1.0, 0, None), (-1.0, 5, -1.0), (0.25, 5, 0.25)])
def test_a_run_that_an_earlier_version_never_validated_has_no_best_value(
    folder: Path, best: float, best_step: int, found: float | None
) -> None:
    """It wrote -1, which no loss is below of."""
    path = save(folder, 10) / "state.json"
    manifest = json.loads(path.read_text())
    manifest["state"] |= {"best": best, "best_step": best_step}
    path.write_text(json.dumps(manifest))
    assert checkpoint.load(PlainEngine(), path.parent, IDENTITY, ALONE).best == found


def test_that_a_run_was_never_validated_comes_back(folder: Path) -> None:
    checkpoint.save(PlainEngine(), folder, TrainState(3), IDENTITY, ALONE)
    assert checkpoint.load(PlainEngine(), folder / "step-00000003", IDENTITY, ALONE) == TrainState(3)
    assert TrainState().best is None


def test_an_engine_that_has_trained_already_is_overwritten(folder: Path) -> None:
    trained, engine = PlainEngine(steps=3), PlainEngine(steps=7)
    checkpoint.load(engine, save(folder, 10, engine=trained), IDENTITY, ALONE)
    for one in (engine, trained):
        one.train()
    assert same(engine, trained)


def test_an_optimizer_that_never_stepped_is_saved_as_it_is(folder: Path) -> None:
    """As in fp16, where the first steps are all skipped until the loss scale fits."""
    fresh, untouched, engine = PlainEngine(steps=0), PlainEngine(steps=0), PlainEngine(steps=2)
    checkpoint.load(engine, save(folder, 1, engine=fresh), IDENTITY, ALONE)
    assert same(fresh, untouched)
    for one in (fresh, untouched, engine):
        one.train()
    assert same(fresh, untouched)
    assert same(engine, untouched)


def test_files_hold_what_is_trained_in_fp32_and_no_more(folder: Path) -> None:
    engine = PlainEngine()
    tensors = load_file(save(folder, 1, engine=engine) / FILE)
    kinds = ("weight", "exp_avg", "exp_avg_sq")
    assert tensors.keys() == {f"{kind}:{name}" for kind in kinds for name in ("0.weight", "1.weight")}
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    assert tensors["weight:0.weight"].equal(engine.module[0].weight)
    assert tensors["exp_avg:1.weight"].equal(engine.optimizer.state[engine.module[1].weight]["exp_avg"])


def test_a_checkpoint_weighs_three_numbers_for_a_trained_parameter(folder: Path) -> None:
    engine = PlainEngine(width=50_000)
    path = save(folder, 1, engine=engine)
    trained = sum(4 * p.numel() for p in engine.module.parameters() if p.requires_grad)
    assert 3 * trained < sum(file.stat().st_size for file in path.iterdir()) <= 3.1 * trained


@pytest.mark.parametrize("name", engine_state.SCALER)
def test_the_loss_scale_survives(folder: Path, name: str) -> None:
    engine, fresh = Scaled(), Scaled()
    for overflow in (True, True, False, True):
        engine.optimizer.loss_scaler.update_scale(overflow)
    assert getattr(engine.optimizer.loss_scaler, name) != getattr(fresh.optimizer.loss_scaler, name)
    checkpoint.load(fresh, save(folder, 4, engine=engine), IDENTITY, ALONE)
    assert getattr(fresh.optimizer.loss_scaler, name) == getattr(engine.optimizer.loss_scaler, name)


def half_engine(seed: int) -> PlainEngine:
    """fp16 weights under DeepSpeed's optimizer for stage 0, which has fp32 copies of them."""
    engine = PlainEngine(seed, steps=0, dtype=torch.float16)
    scale = {"init_scale": 2.0**16, "scale_window": 1000, "min_scale": 1.0}
    engine.optimizer = FP16_UnfusedOptimizer(engine.basic_optimizer, dynamic_loss_scale=True, dynamic_loss_args=scale)
    return engine


def test_fp16_masters_and_loss_scale_survive(folder: Path) -> None:
    engine, fresh = half_engine(0), half_engine(1)
    with torch.no_grad():
        for master in (group[0] for group in engine.optimizer.fp32_groups):
            master += 1e-6  # less than fp16 can show
            engine.basic_optimizer.state[master]["exp_avg"].fill_(0.5)
    for _ in range(3):
        engine.optimizer._update_scale(True)
    checkpoint.load(fresh, save(folder, 4, engine=engine), IDENTITY, ALONE)
    for found, expected in zip(fresh.optimizer.fp32_groups, engine.optimizer.fp32_groups, strict=True):
        assert found[0].equal(expected[0])
        assert fresh.basic_optimizer.state[found[0]]["exp_avg"].eq(0.5).all()
    assert fresh.module[0].weight.equal(engine.optimizer.fp32_groups[0][0].half())
    assert fresh.optimizer.loss_scale == 2.0**13


# Shares of several ranks


class OneOf(World):
    """A rank among others that do what it does, and fail where `failing`."""

    failing = False

    def gather_ints(self, values: list[int]) -> Tensor:
        rows = torch.tensor([values] * self.size)
        if len(values) == 1 and self.failing:
            rows[1] = 1
        return rows


def write_as_two(folder: Path, engine: PlainEngine) -> Path:
    """What two ranks would leave: the second's file first, then the first's and the name."""
    checkpoint.save(engine, folder, TrainState(10), IDENTITY, OneOf(rank=0, size=2))
    path = folder / "step-00000010"
    share = checkpoint._gather_share(engine, OneOf(rank=1, size=2))
    second = "rank-00001-of-00002.safetensors"
    digest = checkpoint._write(path / second, share)
    manifest = json.loads((path / "state.json").read_text())
    manifest["files"][second] = digest
    (path / "state.json").write_text(json.dumps(manifest))
    return path


def test_ranks_write_every_parameter_once_and_one_rank_reads_them_all(folder: Path) -> None:
    trained, engine = PlainEngine(), PlainEngine(steps=0)
    path = write_as_two(folder, trained)
    keys = [set(load_file(path / f"rank-0000{rank}-of-00002.safetensors")) for rank in (0, 1)]
    assert {key.partition(":")[2] for key in keys[0]} == {"0.weight"}
    assert {key.partition(":")[2] for key in keys[1]} == {"1.weight"}
    checkpoint.load(engine, path, IDENTITY, ALONE)
    assert same(engine, trained)


class Receiving(OneOf):
    """The second of two ranks, to which the first sends the tensors of its file."""

    def sent(self, value: Tensor | None, shape: tuple[int, ...], source: int) -> Tensor:
        assert (value is None) == (source != self.rank)
        tensor = value if value is not None else next(self.__dict__["sendings"])
        assert tuple(tensor.shape) == shape
        return tensor


def receiving(path: Path) -> Receiving:
    world, sent = Receiving(rank=1, size=2), load_file(path / "rank-00000-of-00002.safetensors")
    world.__dict__["sendings"] = iter([sent[f"{kind}:0.weight"] for kind in engine_state.KINDS])
    return world


def test_a_rank_reads_and_checks_its_own_file_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, engine, read = PlainEngine(), PlainEngine(steps=0), []
    path = write_as_two(folder, trained)
    world, digest_of = receiving(path), checkpoint._hash
    monkeypatch.setattr(checkpoint, "_hash", lambda file: read.append(file.name) or digest_of(file))
    checkpoint.load(engine, path, IDENTITY, world)
    assert read == ["rank-00001-of-00002.safetensors"]
    for one in (engine, trained):
        one.train()
    assert same(engine, trained)


def test_damage_in_the_file_of_another_rank_stops_this_one_too(folder: Path) -> None:
    path = write_as_two(folder, PlainEngine())
    world, engine = receiving(path), PlainEngine(seed=9)
    object.__setattr__(world, "failing", True)
    before = engine.weights()
    with pytest.raises(CheckpointError, match="rank 1 could not read its part of the checkpoint"):
        checkpoint.load(engine, path, IDENTITY, world)
    assert all(tensor.equal(before[name]) for name, tensor in engine.weights().items())


def test_only_the_first_rank_writes_the_state_and_the_name(folder: Path) -> None:
    (folder / "step-00000010.partial").mkdir(parents=True)  # by the first rank
    checkpoint.save(PlainEngine(), folder, TrainState(10), IDENTITY, OneOf(rank=1, size=2))
    assert names(folder) == ["step-00000010.partial"]
    assert names(folder / "step-00000010.partial") == ["rank-00001-of-00002.safetensors"]


def test_where_another_rank_fails_this_one_stops_too(folder: Path) -> None:
    world = OneOf(rank=0, size=2)
    object.__setattr__(world, "failing", True)
    with pytest.raises(CheckpointError, match="rank 1 could not write"):
        checkpoint.save(PlainEngine(), folder, TrainState(10), IDENTITY, world)
    assert names(folder) == []


def test_ranks_write_about_the_same_number_of_bytes() -> None:
    """The first parameter is as large as all the others together."""
    sizes = {"table": 60, "a": 10, "b": 20, "c": 30}
    owners = checkpoint._owners({name: nn.Parameter(torch.empty(size)) for name, size in sizes.items()}, ranks=2)
    assert owners == {"table": 0, "a": 1, "b": 1, "c": 1}


# Written while training goes on


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Files are written only after the event is set."""
    may_write, write = threading.Event(), checkpoint._write

    def wait(path: Path, share: dict[str, Tensor]) -> str:
        assert may_write.wait(60)
        return write(path, share)

    monkeypatch.setattr(checkpoint, "_write", wait)
    yield may_write
    may_write.set()  # a failed test must not wait for the thread


def test_steps_while_a_checkpoint_is_written_do_not_get_into_it(folder: Path, slow_disk: threading.Event) -> None:
    engine, as_saved, state = PlainEngine(), PlainEngine(), TrainState(10, best=0.5, best_step=10, energy={"cpu": 1.0})
    saving = Saving(engine, folder, state, IDENTITY, ALONE)
    engine.train()
    state.step, state.best, state.energy["cpu"] = 11, 0.75, 2.0
    assert not saving.is_written
    assert checkpoint.latest(folder) is None
    slow_disk.set()
    saving.complete()
    fresh = PlainEngine(steps=0)
    found = checkpoint.load(fresh, folder / "step-00000010", IDENTITY, ALONE)
    assert found == TrainState(10, best=0.5, best_step=10, energy={"cpu": 1.0})
    assert same(fresh, as_saved)


def test_a_file_that_is_written_can_be_completed_without_waiting(folder: Path) -> None:
    saving = Saving(PlainEngine(), folder, TrainState(10), IDENTITY, ALONE)
    saving._digest.exception(timeout=60)
    assert saving.is_written
    assert names(folder) == ["step-00000010.partial"]
    saving.complete()
    assert names(folder) == ["step-00000010"]


# Complete or not there


def test_a_finished_checkpoint_leaves_no_partial_folder(folder: Path) -> None:
    save(folder, 3)
    assert names(folder) == ["step-00000003"]


def test_nothing_saved_is_no_checkpoint(folder: Path) -> None:
    assert checkpoint.latest(folder) is None


def test_the_newest_is_the_latest(folder: Path) -> None:
    save(folder, 9)
    newest = save(folder, 10, best_step=9)
    assert checkpoint.latest(folder) == newest


@pytest.mark.parametrize("left", ["step-00000020.partial", "step-00000020"])
def test_an_incomplete_checkpoint_is_ignored(folder: Path, left: str) -> None:
    """Killed while it was written, or before state.json."""
    complete = save(folder, 10)
    shutil.copytree(complete, folder / left)
    if left.endswith("20"):
        (folder / left / "state.json").unlink()
    assert checkpoint.latest(folder) == complete


def test_what_a_killed_save_left_does_not_get_into_the_next(folder: Path) -> None:
    stale = folder / "step-00000010.partial" / "stale.safetensors"
    stale.parent.mkdir(parents=True)
    stale.write_text("stale")
    path = save(folder, 10)
    assert names(path) == [FILE, "state.json"]
    assert names(folder) == ["step-00000010"]


def test_a_save_that_fails_keeps_the_one_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = PlainEngine()
    before = save(folder, 10, engine=good)

    def full(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transrec.weights.save_file", full)
    with pytest.raises(StorageError, match=rf"cannot write .*{FILE}: No space left on device\. Make room"):
        save(folder, 20)
    assert names(folder) == ["step-00000010"]
    engine = PlainEngine(steps=0)
    checkpoint.load(engine, before, IDENTITY, ALONE)
    assert same(engine, good)


def test_a_disk_too_small_is_seen_before_anything_is_gathered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = save(folder, 10)
    usage = shutil.disk_usage(folder)._replace(free=12 * (3 * 4 + 4 * 2) - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    monkeypatch.setattr("transrec.training.checkpoint._gather_share", lambda *_: pytest.fail("gathered"))
    with pytest.raises(StorageError, match=r"12 bytes for each of 20 trained parameters.*make room"):
        save(folder, 20)
    assert names(folder) == [before.name]


def test_a_disk_that_fills_up_while_a_checkpoint_is_written(
    small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_disk.path / "checkpoints"
    before = save(folder, 10)
    usage = shutil.disk_usage(folder)._replace(free=2**40)  # so it was, when the writing began
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(
        StorageError, match=rf"cannot write .*step-00000020\.partial/{FILE}: .*No space left.*Make room"
    ):
        save(folder, 20, engine=PlainEngine(width=200_000))
    assert names(folder) == [before.name]
    checkpoint.load(PlainEngine(), before, IDENTITY, ALONE)
    assert names(save(folder, 20)) == [FILE, "state.json"]


def test_state_is_written_after_the_weights_and_before_the_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def rename(partial: Path, final: Path) -> None:
        seen.append(sorted(str(p.relative_to(partial)) for p in partial.rglob("*") if p.is_file()))
        assert not final.exists()
        partial.rename(final)

    monkeypatch.setattr(checkpoint, "rename_folder", rename)
    save(folder, 1)
    assert seen == [[FILE, "state.json"]]


def test_pruning_keeps_the_last_and_the_best(folder: Path) -> None:
    save(folder, 10, best_step=10)
    save(folder, 20, best_step=10)
    assert names(folder) == ["step-00000010", "step-00000020"]
    save(folder, 30, best_step=10)
    assert names(folder) == ["step-00000010", "step-00000030"]
    save(folder, 40, best_step=40)
    assert names(folder) == ["step-00000040"]


def test_a_checkpoint_half_removed_does_not_pass_for_a_whole_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = save(folder, 10)
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors=False: None)  # killed before it did anything
    newer = save(folder, 20)
    shutil.move(newer, folder / "set-aside")
    assert (old / FILE).exists()
    assert checkpoint.latest(folder) is None


def test_saving_a_step_again_replaces_it(folder: Path) -> None:
    save(folder, 10, engine=PlainEngine(seed=1))
    path = save(folder, 10, engine=PlainEngine(seed=2))
    engine = PlainEngine(steps=0)
    checkpoint.load(engine, path, IDENTITY, ALONE)
    assert engine.module[0].weight.equal(PlainEngine(seed=2).module[0].weight)


# Refused


def refuse(path: Path, match: str, engine: PlainEngine | None = None, identity: dict[str, str] = IDENTITY) -> str:
    """`load` refuses, and has not touched the engine."""
    engine = engine or PlainEngine(seed=9)
    before = engine.weights()
    with pytest.raises(CheckpointError, match=match) as raised:
        checkpoint.load(engine, path, identity, ALONE)
    assert all(tensor.equal(before[name]) for name, tensor in engine.weights().items())
    return str(raised.value)


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_file_is_named_and_nothing_is_loaded(folder: Path, damage: str) -> None:
    path = save(folder, 10)
    if damage == "changed":
        content = bytearray((path / FILE).read_bytes())
        content[-1] ^= 1
        (path / FILE).write_bytes(content)
    else:
        (path / FILE).unlink()
    refuse(path, rf"step-00000010 is damaged \({FILE} changed")


def test_a_file_that_the_run_did_not_write_is_refused(folder: Path) -> None:
    path = save(folder, 10)
    (path / "zero_pp_rank_1_mp_rank_00_optim_states.pt").write_text("somebody else's pickle")
    refuse(path, "zero_pp_rank_1")


@pytest.mark.parametrize("text", ["", '{"state": ', '{"format": 2}', "[]"])
def test_a_damaged_state_file_is_a_readable_error(folder: Path, text: str) -> None:
    path = save(folder, 10)
    (path / "state.json").write_text(text)
    refuse(path, r"state\.json is damaged .*: delete")


@pytest.mark.parametrize("written_as", [None, 1, "2"])
def test_another_format_is_refused(folder: Path, written_as: Any) -> None:
    path = save(folder, 10)
    manifest = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(manifest | {"format": written_as}))
    refuse(path, f"state.json has format {written_as}, but this version reads format 2")


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"frozen weights": "ff"}, "other frozen weights:"),
        ({"shards": "ff"}, "other shards:"),
        ({"frozen weights": "ff", "shards": "ff"}, "other frozen weights and other shards:"),
    ],
)
def test_another_identity_is_refused_and_what_differs_is_named(folder: Path, now: dict[str, str], named: str) -> None:
    refuse(save(folder, 10), named, identity=IDENTITY | now)


def test_another_model_is_refused_and_what_differs_is_named(folder: Path) -> None:
    other = PlainEngine(width=5)
    other.module[1].bias.requires_grad = True
    other.module[0].weight.requires_grad = False
    message = refuse(save(folder, 10), "step-00000010 belongs to another model; choose another run_dir:", other)
    assert message.splitlines()[1:] == [
        "  1.weight: the model has (2, 5), the file (2, 4)",
        "  missing: 1.bias",
        "  unexpected: 0.weight",
    ]


def test_state_is_readable_by_people(folder: Path) -> None:
    manifest = json.loads((save(folder, 10, 5) / "state.json").read_text())
    assert manifest["format"] == 2
    assert manifest["state"]["step"] == 10
    assert manifest["identity"] == IDENTITY
    assert manifest["optimizer"] == {"step": 3, "loss_scaler": {}}
    assert list(manifest["files"]) == [FILE]
