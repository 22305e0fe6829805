"""`launch/train.py` with every configuration of the repository, and with mistakes in them."""

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from commands import REPOSITORY, Commands, Finished, ForkedCommands, LaunchedCommands
from pictured import build_pictured, random_histories, vision_model
from run_folder import exported, records
from tiny_world import COMPARABLE, Tiny
from transformers import AutoConfig, AutoTokenizer

from transrec.commands.train import main
from transrec.config import load, read_yaml
from transrec.experiment import Experiment

CONFIGS = sorted(
    [
        *REPOSITORY.glob("configs/quickstart.yaml"),
        *REPOSITORY.glob("configs/transrec/*.yaml"),
        *REPOSITORY.glob("configs/peterrec/*nextitnet*.yaml"),
    ]
)


@pytest.fixture(scope="session")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with images for most items, and a tiny vision model."""
    folder = tmp_path_factory.mktemp("pictured")
    build_pictured(folder, 80, range(5, 81), range(1, 81), random_histories(100, 80))
    vision_model("dinov2").save_pretrained(folder / "vision")
    return folder


def with_images(config: Path, tiny: Tiny, pictured: Path) -> list[str]:
    """What a configuration that reads images needs in place of the tiny data."""
    encoder, vision = "model.item_encoder", f"backbone={pictured / 'vision'}"
    if read_yaml(config)["model"]["item_encoder"]["name"] == "image":
        return [f"data.path={pictured / 'shards'}", f"{encoder}.{vision}"]
    text = [f"{encoder}.text.backbone={tiny.backbone}", f"{encoder}.text.fields=[blurb]"]
    return [f"data.path={pictured / 'shards'}", f"{encoder}.image.{vision}", *text]


def arguments(config: Path, tiny: Tiny, run_dir: Path) -> list[str | Path]:
    """Three steps of `config` on the tiny data, with the tiny backbone where it wants one."""
    small = [f"run_dir={run_dir}", f"data.path={tiny.shards}", f"data.cache={tiny.config.parent / 'cache'}"]
    short = ["data.workers=0", "train={steps: 3, batch_size: 16}"]
    encoder = read_yaml(config)["model"]["item_encoder"]
    tiny_text = [f"model.item_encoder.backbone={tiny.backbone}", "model.item_encoder.max_tokens=30"]
    backbone = tiny_text if encoder["name"] == "text" else []
    return ["--config", config, *small, *short, *backbone]


def train(commands: Commands, config: Path, tiny: Tiny, run_dir: Path, *overrides: str) -> Finished:
    """Train `config`; a run it starts from is made first, of the same model."""
    source = []
    if read_yaml(config).get("init_from") is not None:
        before = run_dir.with_name("source")
        fresh = commands.run(
            "train", *arguments(config, tiny, before), *overrides, "init_from=null", "adaptation={name: full}"
        )
        assert fresh.code == 0, fresh.stderr
        source = [f"init_from={before}"]
    return commands.run("train", *arguments(config, tiny, run_dir), *overrides, *source)


def test_there_are_configurations() -> None:
    assert {"quickstart", "id_sasrec", "text_houlsby"} <= {config.stem for config in CONFIGS}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_trains(
    config: Path, tiny: Tiny, pictured: Path, commands: ForkedCommands, run_dir: Path
) -> None:
    reads_images = read_yaml(config)["model"]["item_encoder"]["name"] in ("image", "multimodal")
    finished = train(commands, config, tiny, run_dir, *(with_images(config, tiny, pictured) if reads_images else []))
    assert finished.code == 0, finished.stderr
    check_run(run_dir)
    check_stdout(finished.stdout, run_dir)


def test_the_command_as_it_is_typed(tiny: Tiny, launched: LaunchedCommands, run_dir: Path) -> None:
    finished = train(launched, REPOSITORY / "configs/transrec/id_sasrec.yaml", tiny, run_dir)
    assert finished.code == 0, finished.stderr
    check_run(run_dir)
    check_stdout(finished.stdout, run_dir)


def check_run(run_dir: Path) -> None:
    experiment = load(Experiment, run_dir / "config.yaml")
    assert experiment.run_dir == run_dir
    environment = yaml.safe_load((run_dir / "environment.yaml").read_text())
    assert {"torch", "deepspeed", "transformers"} <= environment["packages"].keys()
    assert [record["step"] for record in records(run_dir, "step")] == [1, 2, 3]
    summary = json.loads((run_dir / "summary.json").read_text())
    check_summary(summary, experiment)
    check_users(pq.read_table(run_dir / "test_users.parquet"), summary)
    check_export(run_dir, experiment)
    assert list((run_dir / "tensorboard").glob("events.out.tfevents.*"))
    assert list((run_dir / "checkpoints").glob("step-00000003/state.json"))


def check_summary(summary: dict[str, Any], experiment: Experiment) -> None:
    for part in ("valid", "test"):
        for metric in experiment.evaluation.metrics:
            low, high = summary[part][f"{metric}_interval"]
            assert 0 <= low <= summary[part][metric] <= high <= 1
        low, high = summary[part]["loss_interval"]
        assert 0 < low <= summary[part]["loss"] <= high
    of_content = ["content_similarity", "blend"] if experiment.model.content() else []
    assert [*summary["baselines"]] == ["most_popular", "item_to_item", "transitions", "co_occurrence", *of_content]
    assert summary["baselines"]["item_to_item"].keys() == summary["test"].keys() - {"loss", "loss_interval"}
    assert 0 < summary["data"]["users"] <= summary["data"]["windows"] < summary["data"]["interactions"]
    assert 0 < summary["parameters"]["trainable"] <= summary["parameters"]["total"]
    assert summary["steps"] == summary["best_step"] == 3
    assert summary["seconds"] >= 0
    assert summary["users_per_second"] > 0
    assert summary["peak_memory_bytes"] > 2**20


def check_users(users: pa.Table, summary: dict[str, Any]) -> None:
    """What the file says of every user adds up to the summary."""
    assert [(field.name, str(field.type)) for field in users.schema] == [
        ("user_id", "string"),
        ("target", "string"),
        ("rank", "int64"),
        ("loss", "float"),
    ]
    assert len(set(users["user_id"].to_pylist())) == len(users)
    (k,) = (int(name.removeprefix("HR@")) for name in summary["test"] if name.startswith("HR@") and name[3:].isdigit())
    assert np.mean(users["rank"].to_numpy() <= k) == pytest.approx(summary["test"][f"HR@{k}"])
    assert users["loss"].to_numpy().mean() == pytest.approx(summary["test"]["loss"], rel=1e-5)


def test_the_users_of_two_ranks_are_those_of_one(tiny: Tiny, commands: ForkedCommands, tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    for folder, ranks in ((alone, 1), (together, 2)):
        finished = commands.run("train", "--config", tiny.config, f"run_dir={folder}", *COMPARABLE, ranks=ranks)
        assert finished.code == 0, finished.stderr
    one, two = (pq.read_table(folder / "test_users.parquet") for folder in (alone, together))
    assert one["user_id"].equals(two["user_id"])
    np.testing.assert_allclose(one["loss"].to_numpy(), two["loss"].to_numpy(), rtol=1e-4)


def test_a_monitored_loss_improves_as_it_falls(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    """Steps so large that it rises again: training stops, and the export is that of the smallest loss."""
    finished = commands.run(
        "train", "--config", tiny.config, f"run_dir={run_dir}",
        "evaluation.metrics=[HR@10, loss]", "train.monitor=loss",
        "train.steps=40", "train.evaluate_every=2", "train.patience=3",
        "optimizer.lr={backbone: 0.01, head: 0.05, adapter: 0.1}",
    )  # fmt: skip
    assert finished.code == 0, finished.stderr
    validations = records(run_dir, "valid")
    best = min(validations, key=lambda record: record["loss"])
    summary = json.loads((run_dir / "summary.json").read_text())
    assert validations[0]["step"] < best["step"] == summary["best_step"], "it rose from the first validation on"
    assert summary["steps"] == validations[-1]["step"] == best["step"] + 3 * 2 < 40, "three validations without gain"
    assert summary["valid"]["loss"] == pytest.approx(best["loss"])
    assert list(summary["valid"]) == ["HR@10", "HR@10_interval", "loss", "loss_interval"]
    assert summary["baselines"]["most_popular"].keys() == {"HR@10", "HR@10_interval"}
    states = [json.loads(path.read_text())["state"] for path in (run_dir / "checkpoints").glob("step-*/state.json")]
    assert {state["best"] for state in states} == {best["loss"]}


def check_export(run_dir: Path, experiment: Experiment) -> None:
    export = run_dir / "export"
    config = json.loads((export / "config.json").read_text())
    assert config["architecture"] == "transrec"
    assert config["num_items"] == 80
    weights = exported(run_dir)
    assert all(tensor.numel() for tensor in weights.values())
    adapted = experiment.adaptation.name != "full"
    assert (export / "adapter_config.json").exists() == adapted
    assert (export / ("adapter_model.safetensors" if adapted else "model.safetensors")).exists()
    if experiment.model.item_encoder.name == "text":
        AutoConfig.from_pretrained(export / "backbone")
        assert AutoTokenizer.from_pretrained(export / "backbone")("and")["input_ids"]


def check_stdout(stdout: str, run_dir: Path) -> None:
    """A table for people, the last line for programs."""
    assert "most_popular" in stdout
    last = json.loads(stdout.splitlines()[-1])
    assert last == {"run": str(run_dir), "test": json.loads((run_dir / "summary.json").read_text())["test"]}


# Configuration


def test_print_config_shows_the_whole_run_and_starts_none(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "seed=3", "--print-config")
    assert finished.code == 0, finished.stderr
    assert not run_dir.exists()
    expected = load(Experiment, tiny.config, [f"run_dir={run_dir}", "seed=3"])
    assert Experiment.model_validate(yaml.safe_load(finished.stdout)) == expected
    assert expected.seed == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batchsize=3", "error: unknown key `train.batchsize`: did you mean `train.batch_size`?"),
        (
            "model.item_encoder.poling=mean",
            "unknown key `model.item_encoder.poling`: did you mean `model.item_encoder.pooling`?",
        ),
        ("model.user_encoder.name=sasrek", "`model.user_encoder.name`: 'sasrek' is not one of"),
        ("train.batch_size=many", "`train.batch_size`: "),
        ("train.batch_size", "override 'train.batch_size': write it as key.subkey=value"),
        ("train.monitor=HR@7", "train.monitor 'HR@7'"),
        ("evaluation.metrics=[HR]", "write NAME@K"),
    ],
)
def test_a_mistake_in_the_configuration_is_explained(
    tiny: Tiny, run_dir: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(tiny.config), f"run_dir={run_dir}", override]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("deepspeed.gradient_clipping=1", "`deepspeed.gradient_clipping` is set by `train.clipping`"),
        ("zero.offload_optimizer=true", "`zero.offload_optimizer` needs `zero.stage`"),
        ("data.path=/nowhere", "/nowhere/index.json"),
        ("model.item_encoder.backbone=/nowhere", "`backbone`: cannot load '/nowhere'"),
        ("adaptation.name=houlsby", "without `init_from` the projection and the user encoder are random"),
        ("init_from=/nowhere", "/nowhere does not exist: give the folder of a run"),
    ],
)
def test_a_mistake_is_explained(
    tiny: Tiny, commands: ForkedCommands, run_dir: Path, override: str, message: str
) -> None:
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=1", override)
    assert finished.code == 1
    assert f"error: {message}" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_mistake_leaves_the_run_folder_free(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    """The corrected command may use the same run_dir: a run that has not begun is no other experiment."""
    wrong = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=1", "data.path=/nowhere")
    assert wrong.code == 1
    right = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=1")
    assert right.code == 0, right.stderr


def test_a_port_that_is_taken_is_named(
    tiny: Tiny, run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for key, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_PORT": port}.items():
            monkeypatch.setenv(key, str(value))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert main(["--config", str(tiny.config), f"run_dir={run_dir}"]) == 1
    message = capsys.readouterr().err
    assert f"error: the ranks cannot meet at 127.0.0.1:{port} (" in message
    assert "choose another one: `deepspeed --master_port N …`" in message
    assert "Traceback" not in message
    assert not run_dir.exists()


def test_two_ranks_print_a_mistake_once(tiny: Tiny, commands: ForkedCommands, run_dir: Path) -> None:
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "train.batchsize=3", ranks=2)
    assert finished.code == 1
    assert finished.stderr.count("did you mean `train.batch_size`?") >= 1
    assert "Traceback" not in finished.stderr
