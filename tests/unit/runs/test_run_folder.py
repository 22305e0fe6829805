import os
import shutil
import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from untrained_runs import export_run, make

from transrec.config import ConfigError, dump, load, may_differ, validate
from transrec.distributed.world import World
from transrec.experiment import Experiment
from transrec.files import StorageError
from transrec.locks import BusyError
from transrec.runs import run_folder
from transrec.runs.places import hash_of_weights
from transrec.runs.run_folder import check_run_dir, differences, environment, is_among, owned, relocated, write_run_dir


@pytest.fixture
def experiment(tmp_path: Path, synthetic_shards: Path) -> Experiment:
    return make(tmp_path / "run", synthetic_shards)


def test_a_folder_that_is_no_run_is_a_readable_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a run folder: it has no config\.yaml"):
        run_folder.load(tmp_path)


def test_a_new_run_folder_holds_the_configuration_and_the_environment(experiment: Experiment) -> None:
    check_run_dir(experiment)
    write_run_dir(experiment)
    assert run_folder.load(experiment.run_dir) == experiment
    assert (experiment.run_dir / "config.yaml").read_text() == dump(experiment)
    written = yaml.safe_load((experiment.run_dir / "environment.yaml").read_text())
    assert written.keys() == environment().keys()
    assert written["packages"]["torch"] == version("torch")


def test_the_environment_has_the_command_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher tells each rank its number."""
    typed = ["launch/train.py", "--config", "c.yaml", "seed=3"]
    monkeypatch.setattr("sys.argv", [typed[0], "--local_rank=1", *typed[1:]])
    assert environment()["command"] == typed


def test_the_same_experiment_may_go_on(experiment: Experiment) -> None:
    write_run_dir(experiment)
    before = (experiment.run_dir / "environment.yaml").stat().st_mtime_ns
    check_run_dir(experiment)
    write_run_dir(experiment)
    assert (experiment.run_dir / "environment.yaml").stat().st_mtime_ns == before


HOW = ["zero.stage=2", "deepspeed.zero_optimization.overlap_comm=false", "data.path=/moved", "data.cache=/elsewhere"]
HOW += ["data.workers=3", "train.accumulation=2", "train.gradient_checkpointing=true", "train.log_every=3"]
HOW += ["train.compile=true", "train.checkpoint_every=7", "data.cache_bytes=5", "data.most_bad_share=0.5"]

# Of item encoders; their backbones are not looked at before a run is built.
TEXT, IMAGE = {"name": "text", "backbone": "some/bert"}, {"name": "image", "backbone": "some/vit"}
HOW_ENCODED = [
    (TEXT, "chunk_tokens=64"),
    (IMAGE, "chunk_images=2"),
    (IMAGE, "decoded_cache=false"),
    ({"name": "multimodal", "text": TEXT, "image": IMAGE}, "text.chunk_tokens=64"),
    ({"name": "multimodal", "text": TEXT, "image": IMAGE}, "image.chunk_images=2"),
    ({"name": "multimodal", "text": TEXT, "image": IMAGE}, "image.decoded_cache=false"),
]


def test_what_does_not_change_what_is_learnt_may_differ_and_is_written_down(experiment: Experiment) -> None:
    write_run_dir(experiment)
    before = (experiment.run_dir / "environment.yaml").read_bytes()
    path = experiment.run_dir / "config.yaml"
    for override in HOW:
        now = load(Experiment, path, [override])
        assert now != run_folder.load(experiment.run_dir)
        check_run_dir(now)
        write_run_dir(now)
        assert run_folder.load(experiment.run_dir) == now
    assert (experiment.run_dir / "environment.yaml").read_bytes() == before


def reading(experiment: Experiment, item_encoder: dict[str, Any]) -> Experiment:
    """The same experiment with another item encoder."""
    values = experiment.model_dump(mode="json")
    return validate(Experiment, values | {"model": values["model"] | {"item_encoder": item_encoder}})


@pytest.mark.parametrize(("item_encoder", "override"), HOW_ENCODED, ids=[override for _, override in HOW_ENCODED])
def test_how_items_are_encoded_may_differ(experiment: Experiment, item_encoder: dict[str, Any], override: str) -> None:
    began = reading(experiment, item_encoder)
    write_run_dir(began)
    now = load(Experiment, began.run_dir / "config.yaml", [f"model.item_encoder.{override}"])
    assert now != began
    check_run_dir(now)


TASKS = [
    ({"name": "cold_start", "target": "there"}, "target=elsewhere"),
    ({"name": "file", "path": "there.tsv"}, "path=elsewhere.tsv"),
]


@pytest.mark.parametrize(("task", "override"), TASKS, ids=["cold_start", "file"])
def test_where_targets_lie_may_differ(experiment: Experiment, task: dict[str, Any], override: str) -> None:
    values = experiment.model_dump(mode="json")
    values["data"]["examples"] = {"name": "task", "targets": task}
    values["model"]["objective"] = {"name": "classification"}
    began = validate(Experiment, values)
    write_run_dir(began)
    now = load(Experiment, began.run_dir / "config.yaml", [f"data.examples.targets.{override}"])
    assert now != began
    check_run_dir(now)


@pytest.mark.parametrize("override", ["layers=1", "pooling=mean", "image_size=32", "mask_ratio=0.5"])
def test_what_an_encoder_makes_of_items_may_not_differ(experiment: Experiment, override: str) -> None:
    began = reading(experiment, IMAGE)
    write_run_dir(began)
    with pytest.raises(ConfigError, match="holds another experiment"):
        check_run_dir(load(Experiment, began.run_dir / "config.yaml", [f"model.item_encoder.{override}"]))


@pytest.mark.parametrize(
    "override", ["deepspeed.prescale_gradients=true", "data.fraction=0.5", "train.precision=bf16", "train.steps=3"]
)
def test_what_changes_what_is_learnt_may_not_differ(experiment: Experiment, override: str) -> None:
    write_run_dir(experiment)
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=f"differs in:\n  {key}: .* there, .* now\nChoose"):
        check_run_dir(load(Experiment, experiment.run_dir / "config.yaml", [override, "zero.stage=1"]))


def test_the_fields_that_may_differ_are_those_of_how_the_work_is_done(experiment: Experiment) -> None:
    found = may_differ(experiment)
    for item_encoder, _ in HOW_ENCODED:
        found |= may_differ(reading(experiment, item_encoder))
    assert found == {
        "zero",
        "deepspeed.zero_optimization",
        *(f"data.{name}" for name in ("path", "cache", "cache_bytes", "workers", "most_bad_share")),
        *(f"model.item_encoder.{name}" for name in ("chunk_tokens", "chunk_images", "decoded_cache")),
        *(f"model.item_encoder.{name}" for name in ("text.chunk_tokens", "image.chunk_images", "image.decoded_cache")),
        *(f"train.{name}" for name in ("accumulation", "gradient_checkpointing", "compile", "checkpoint_every")),
        *(f"train.{name}" for name in ("log_every", "time_limit", "pool_memory", "trackers")),
        "evaluation.baselines",
    }
    assert is_among("zero.stage", found)
    assert not is_among("zeroes", found)


def test_places_are_written_in_full(tmp_path: Path, synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").symlink_to(synthetic_shards)
    write_run_dir(make(Path("run"), Path("shards"), {"name": "text", "backbone": "all-MiniLM-L6-v2"}))
    written = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (written["run_dir"], written["data"]["path"]) == (str(tmp_path / "run"), str(tmp_path / "shards"))
    assert written["model"]["item_encoder"]["backbone"] == "all-MiniLM-L6-v2"
    monkeypatch.chdir("/")
    assert run_folder.load(tmp_path / "run").data.path == tmp_path / "shards"


def test_a_tree_that_moved_is_found(tmp_path: Path, synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "old"
    shutil.copytree(synthetic_shards, old / "shards")
    source = make(old / "runs/source", old / "shards")
    write_run_dir(source)
    write_run_dir(make(old / "runs/run", old / "shards", init_from=str(old / "runs/source")))
    new = old.rename(tmp_path / "new")
    moved = run_folder.load(new / "runs/run")
    assert moved.run_dir == new / "runs/run"
    assert (moved.data.path, moved.init_from) == (new / "shards", new / "runs/source")
    check_run_dir(moved)
    (new / "shards").rename(tmp_path / "elsewhere")
    assert run_folder.load(new / "runs/run").data.path == old / "shards", (
        "what is found nowhere stays, for the error that comes"
    )


def test_a_cache_that_moved_along_is_used(tmp_path: Path, synthetic_shards: Path) -> None:
    """Else the folder that the tree has left would be made anew."""
    old = tmp_path / "old"
    (old / "cache").mkdir(parents=True)
    experiment = make(old / "runs/run", synthetic_shards)
    data = experiment.data.model_copy(update={"cache": old / "cache"})
    write_run_dir(experiment.model_copy(update={"data": data}))
    new = old.rename(tmp_path / "new")
    assert run_folder.load(new / "runs/run").data.cache == new / "cache"


def test_a_folder_named_like_weights_has_no_content(tmp_path: Path) -> None:
    (tmp_path / "export" / "model.safetensors").mkdir(parents=True)
    assert hash_of_weights(tmp_path) is None
    assert hash_of_weights(tmp_path / "export") is None


def test_a_home_that_nobody_has_is_a_path_like_others(tmp_path: Path) -> None:
    values = {"run_dir": "/old/run", "data": {"path": "~nobody-of-that-name/shards"}}
    assert relocated(values, tmp_path) == values


@pytest.mark.parametrize("spelt", ["deep/../source", "link/source"])
def test_the_source_is_the_same_however_its_path_is_spelt(tmp_path: Path, synthetic_shards: Path, spelt: str) -> None:
    write_run_dir(make(tmp_path / "source", synthetic_shards))
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    write_run_dir(make(tmp_path / "run", synthetic_shards, init_from=str(tmp_path / "source")))
    check_run_dir(make(tmp_path / "run", synthetic_shards, init_from=str(tmp_path / spelt)))
    write_run_dir(make(tmp_path / "other", synthetic_shards))
    with pytest.raises(ConfigError, match="it differs in:\n  init_from: "):
        check_run_dir(make(tmp_path / "run", synthetic_shards, init_from=str(tmp_path / "other")))


def test_a_source_that_moved_is_the_same_by_its_content(tmp_path: Path, synthetic_shards: Path) -> None:
    """Also to another disk, where no relative path leads from one run to the other."""
    export_run(make(tmp_path / "source", synthetic_shards))
    write_run_dir(make(tmp_path / "run", synthetic_shards, init_from=str(tmp_path / "source")))
    there = (tmp_path / "source").rename(tmp_path / "elsewhere")
    check_run_dir(make(tmp_path / "run", synthetic_shards, init_from=str(there)))
    export_run(make(tmp_path / "other", synthetic_shards, seed=1))
    with pytest.raises(ConfigError, match="it differs in:\n  init_from: "):
        check_run_dir(make(tmp_path / "run", synthetic_shards, init_from=str(tmp_path / "other")))
    with pytest.raises(ConfigError, match="it differs in:\n  init_from: "):
        check_run_dir(make(tmp_path / "run", synthetic_shards, init_from=str(tmp_path / "nowhere")))


def test_the_source_of_a_run_of_an_earlier_version_is_compared_where_it_still_is(
    tmp_path: Path, synthetic_shards: Path
) -> None:
    """Such a run recorded no content."""
    export_run(make(tmp_path / "source", synthetic_shards))
    write_run_dir(make(tmp_path / "run", synthetic_shards, init_from=str(tmp_path / "source")))
    (tmp_path / "run/environment.yaml").unlink()
    copy = shutil.copytree(tmp_path / "source", tmp_path / "copy")
    check_run_dir(make(tmp_path / "run", synthetic_shards, init_from=str(copy)))
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(ConfigError, match="it differs in:\n  init_from: "):
        check_run_dir(make(tmp_path / "run", synthetic_shards, init_from=str(copy)))


def test_a_backbone_is_the_same_by_a_link_or_at_another_place(tmp_path: Path, synthetic_shards: Path) -> None:
    def at(folder: Path) -> Experiment:
        return make(tmp_path / "run", synthetic_shards, {"name": "text", "backbone": str(folder)})

    first = tmp_path / "backbone"
    first.mkdir()
    (first / "model.safetensors").write_bytes(b"weights")
    write_run_dir(at(first))
    (tmp_path / "link").symlink_to(first)
    check_run_dir(at(tmp_path / "link"))
    (tmp_path / "link").unlink()
    moved = first.rename(tmp_path / "moved")
    check_run_dir(at(moved))
    (moved / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ConfigError, match=r"it differs in:\n  model\.item_encoder\.backbone: "):
        check_run_dir(at(moved))


def test_a_run_is_found_by_a_relative_name_an_absolute_one_and_a_link(
    tmp_path: Path, synthetic_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run_dir(make(Path("run"), synthetic_shards))
    (tmp_path / "link").symlink_to("run")
    for run_dir in (tmp_path / "run", Path("link"), tmp_path / "link"):
        check_run_dir(make(run_dir, synthetic_shards))


def test_a_run_folder_has_one_owner_which_is_named(experiment: Experiment) -> None:
    with owned(experiment.run_dir, World()), pytest.raises(BusyError) as raised, owned(experiment.run_dir, World()):
        pytest.fail("there were two")
    assert str(raised.value) == (
        f"{experiment.run_dir} is being trained by process {os.getpid()} on {socket.gethostname()}: "
        "wait until it ends, or choose another run_dir"
    )
    with owned(experiment.run_dir, World()):
        check_run_dir(experiment)


def test_a_run_folder_that_was_only_owned_is_gone(tmp_path: Path) -> None:
    """A run that cannot start changes nothing on disk."""
    with owned(tmp_path / "deep" / "run", World()):
        assert (tmp_path / "deep" / "run").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(ConfigError, match="run is a file: choose another run_dir"), owned(tmp_path / "run", World()):
        pytest.fail("a file is no folder")
    inside = tmp_path / "run" / "inside"
    with pytest.raises(StorageError, match="is not inside a file"), owned(inside, World()):
        pytest.fail("a file holds nothing")


def test_a_run_without_data_is_refused_by_name(experiment: Experiment) -> None:
    write_run_dir(experiment)
    path = experiment.run_dir / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"data": None}))
    with pytest.raises(ConfigError, match="`data`: "):
        run_folder.load(experiment.run_dir)


def test_a_run_of_an_earlier_version_is_read(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was written with relative places, and with `data.task`."""
    write_run_dir(experiment)
    path = experiment.run_dir / "config.yaml"
    values = yaml.safe_load(path.read_text())
    shards = Path(values["data"]["path"])
    (experiment.run_dir.parent / "shards").mkdir()
    (experiment.run_dir.parent / "shards/old").symlink_to(shards)
    values["data"] |= {"path": "shards/old", "task": None}
    del values["data"]["examples"]
    path.write_text(yaml.safe_dump(values))
    monkeypatch.chdir("/")
    assert run_folder.load(experiment.run_dir).data.path == experiment.run_dir.parent / "shards/old"
    values["data"]["task"] = {"name": "profile", "column": "age"}
    values["model"]["objective"] = {"name": "classification"}
    path.write_text(yaml.safe_dump(values))
    assert run_folder.load(experiment.run_dir).data.examples.name == "task"


def test_another_experiment_is_refused_and_what_differs_is_named(experiment: Experiment) -> None:
    write_run_dir(experiment)
    other = load(Experiment, experiment.run_dir / "config.yaml", ["seed=3", "train.batch_size=32"])
    with pytest.raises(ConfigError) as raised:
        check_run_dir(other)
    assert "seed: 0 there, 3 now" in str(raised.value)
    assert "train.batch_size: 64 there, 32 now" in str(raised.value)
    assert "precision" not in str(raised.value)


def test_a_folder_with_something_else_in_it_is_refused(experiment: Experiment) -> None:
    experiment.run_dir.mkdir()
    (experiment.run_dir / "thesis.tex").write_text("all of it")
    with pytest.raises(ConfigError, match="neither empty nor a run folder"):
        check_run_dir(experiment)


def test_an_empty_folder_will_do(experiment: Experiment) -> None:
    experiment.run_dir.mkdir()
    check_run_dir(experiment)


def test_a_run_killed_while_its_folder_was_begun_can_start_again(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(config: Experiment) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("transrec.runs.run_folder.dump", die)
    with pytest.raises(KeyboardInterrupt):
        write_run_dir(experiment)
    check_run_dir(experiment)


def test_differences_see_a_component_swapped(experiment: Experiment) -> None:
    model = experiment.model.model_dump(mode="json")
    other = validate(
        Experiment, experiment.model_dump(mode="json") | {"model": model | {"user_encoder": {"name": "gru4rec"}}}
    )
    assert "model.user_encoder.name: 'sasrec' there, 'gru4rec' now" in differences(experiment, other).values()
    assert not differences(experiment, experiment)


def test_frozen_layers_are_run_each_time_if_the_command_line_says_so(experiment: Experiment) -> None:
    """`off` is a boolean of YAML."""
    write_run_dir(experiment)
    loaded = load(Experiment, experiment.run_dir / "config.yaml", ["prefix_cache.mode=off"])
    assert loaded.prefix_cache.mode == "off"
