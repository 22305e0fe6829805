import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from transrec import weights
from transrec.files import StorageError, writing
from transrec.weights import WeightsError, base_hash, export, gathered, load_export, load_strictly, load_trained

CONFIG = {"adaptation": {"name": "some"}, "num_items": 3}


class Model(nn.Module):
    """A base of a linear layer with a normalisation, and a head; buffers of both kinds."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.base = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 2)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def adapted(seed: int = 0) -> Model:
    model = Model(seed)
    model.base.requires_grad_(False)
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_strict_load_copies_every_weight_and_buffer() -> None:
    source, target = Model(1), Model(2)
    load_strictly(target, state(source))
    assert_equal(state(target), state(source))


def test_strict_load_keeps_the_parameters_themselves() -> None:
    """An optimizer or an engine may hold them already."""
    target = Model(2)
    before = list(target.parameters())
    load_strictly(target, state(Model(1)))
    assert all(one is other for one, other in zip(before, target.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in before)


def test_strict_load_lists_everything_that_does_not_fit_and_changes_nothing() -> None:
    target, given = Model(), state(Model(1))
    del given["head.bias"]
    given["stranger"] = torch.zeros(1)
    given["base.0.weight"] = torch.zeros(3, 4)
    before = state(target)
    with pytest.raises(WeightsError) as raised:
        load_strictly(target, given)
    message = str(raised.value)
    assert "missing: head.bias" in message
    assert "unexpected: stranger" in message
    assert "base.0.weight: the model has (4, 3), the file (3, 4)" in message
    assert_equal(state(target), before)


def test_a_long_list_is_cut() -> None:
    with pytest.raises(WeightsError, match=r"… and 8 more"):
        load_strictly(Model(), state(Model()) | {f"x{i}": torch.zeros(1) for i in range(20)})


def test_only_what_may_be_missing_may_be_missing() -> None:
    target, given = Model(2), state(Model(1))
    kept = target.head.bias.detach().clone()
    del given["head.bias"]
    load_strictly(target, given, missing_ok=["head.bias"])
    assert torch.equal(target.head.bias, kept)
    assert torch.equal(target.head.weight, given["head.weight"])
    with pytest.raises(WeightsError, match=r"missing: head\.bias"):
        load_strictly(target, given, missing_ok=["head.weight"])


def test_scratch_buffers_are_no_weights() -> None:
    assert weights.names(Model()) == list(Model().state_dict())


def test_an_empty_weight_is_refused() -> None:
    """Under ZeRO-3 a weight that was not gathered has no elements."""
    model = nn.Linear(2, 2)
    model.weight.data = torch.zeros(0)
    with pytest.raises(WeightsError, match="weight is empty"):
        list(gathered(model, ["weight"]))


def test_a_file_written_in_turn_is_that_of_safetensors(tmp_path: Path) -> None:
    """Types of several widths, a single number, and a name beyond ASCII."""
    model = nn.Module()
    for name, tensor in {
        "b": torch.arange(6.0).reshape(2, 3).T,
        "a": torch.tensor(3),
        "flags": torch.tensor([True, False, True]),
        "é": torch.ones(5, dtype=torch.bfloat16),
        "bytes": torch.arange(3, dtype=torch.uint8),
    }.items():
        model.register_buffer(name, tensor)
    tensors = dict(model.named_buffers())
    described = weights.layout(tensors)
    weights.write_in_turn(tmp_path / "one", described, gathered(model, described))
    fp32 = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    weights.write(tmp_path / "other", {name: tensor.contiguous() for name, tensor in fp32.items()})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.fixture
def gathering(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many weights were whole at once, at each that was gathered."""
    counts, now = [], [0]

    @contextmanager
    def counting(tensor: Tensor, modify: bool = False) -> Iterator[None]:
        now[0] += 1
        counts.append(now[0])
        yield
        now[0] -= 1

    monkeypatch.setattr(weights, "whole", counting)
    return counts


@pytest.mark.parametrize("writes", [True, False])
def test_every_rank_gathers_one_weight_after_the_other(tmp_path: Path, gathering: list[int], writes: bool) -> None:
    export(tmp_path / "export", Model(1), CONFIG, base=None, write_files=writes)
    assert gathering == [1] * len(weights.names(Model()))
    assert (tmp_path / "export").exists() == writes


def test_a_rank_whose_disk_is_full_gathers_on_for_the_others(
    tmp_path: Path, gathering: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        with writing(path):
            yield Path("/dev/full")

    monkeypatch.setattr(weights, "replace_atomically", full)
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))  # the first write fails
    with pytest.raises(StorageError, match="Make room on that disk"):
        export(tmp_path / "export", model, CONFIG, base=None, write_files=True)
    assert gathering == [1] * 4


def test_everything_trained_comes_back_into_a_fresh_model(tmp_path: Path) -> None:
    trained, fresh = Model(1), Model(2)
    export(tmp_path / "export", trained, CONFIG, base=None, write_files=True)
    load_export(tmp_path / "export", fresh)
    assert_equal(state(fresh), state(trained))
    assert sorted(p.name for p in (tmp_path / "export").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "export" / "config.json").read_text()) == CONFIG


def test_an_adapted_export_holds_what_was_trained_and_no_more(tmp_path: Path) -> None:
    model = adapted()
    export(tmp_path, model, CONFIG, base_hash(model), write_files=True)
    assert load_file(tmp_path / "adapter_model.safetensors").keys() == {"head.weight", "head.bias"}
    assert not (tmp_path / "model.safetensors").exists()
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    assert described == {"adaptation": CONFIG["adaptation"], "base_sha256": base_hash(model)}


@pytest.mark.parametrize("load", [load_export, load_trained])
def test_an_adapted_export_comes_back_over_its_base(tmp_path: Path, load: Callable[[Path, nn.Module], None]) -> None:
    trained, fresh = adapted(), adapted()
    nn.init.constant_(trained.head.weight, 0.5)
    export(tmp_path, trained, CONFIG, base_hash(trained), write_files=True)
    load(tmp_path, fresh)
    assert_equal(state(fresh), state(trained))


def test_an_adapted_export_is_refused_over_another_base(tmp_path: Path) -> None:
    model, other = adapted(), adapted(seed=1)
    export(tmp_path, model, CONFIG, base_hash(model), write_files=True)
    before = state(other)
    with pytest.raises(WeightsError, match=f"base with hash {base_hash(model)[:12]}.*{base_hash(other)[:12]}"):
        load_export(tmp_path, other)
    assert_equal(state(other), before)


def test_an_export_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    model = adapted()
    export(tmp_path, model, CONFIG, base_hash(model), write_files=True)
    weights.write(tmp_path / "adapter_model.safetensors", {"head.bias": model.head.bias.detach()})
    with pytest.raises(WeightsError, match=r"missing: head\.weight"):
        load_export(tmp_path, adapted())


@pytest.mark.parametrize("name", list(Model().base.state_dict(prefix="base.")))
def test_base_hash_changes_with_every_frozen_weight(name: str) -> None:
    model, changed = adapted(), adapted()
    tensor = changed.state_dict()[name]
    with torch.no_grad():
        tensor.view(-1)[0] += 1
    assert base_hash(changed) != base_hash(model)


def test_base_hash_does_not_change_with_what_trains() -> None:
    model, trained = adapted(), adapted()
    nn.init.ones_(trained.head.weight)
    assert base_hash(trained) == base_hash(model)


def test_base_hash_depends_on_what_is_frozen() -> None:
    assert base_hash(adapted()) != base_hash(Model())


def test_ranks_that_do_not_write_write_nothing(tmp_path: Path) -> None:
    export(tmp_path / "export", Model(), CONFIG, None, write_files=False)
    assert not (tmp_path / "export").exists()


@pytest.mark.parametrize("damage", ["missing", "truncated", "pickle"])
def test_an_unreadable_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    if damage == "truncated":
        weights.write(path, state(Model()))
        path.write_bytes(path.read_bytes()[:40])
    elif damage == "pickle":
        torch.save(state(Model()), path)
    with pytest.raises(WeightsError, match=r"cannot read weights .*model\.safetensors"):
        weights.read(path)


def test_the_config_of_an_export_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its presence says that the export is complete."""
    written: list[str] = []
    original = weights.write_text
    monkeypatch.setattr(weights, "write_text", lambda path, text: (written.append(path.name), original(path, text)))
    monkeypatch.setattr(weights, "write_in_turn", lambda path, layout, tensors: written.append(path.name))
    export(tmp_path, adapted(), CONFIG, "hash", write_files=True)
    assert written == ["adapter_model.safetensors", "adapter_config.json", "config.json"]


def test_who_may_read_a_file_is_for_the_umask_to_say(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    weights.write(tmp_path / "model.safetensors", {"w": torch.zeros(2)})
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
