"""One base and many channels: side by side as alone, the base loaded once, and no adapter on a base not its own."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import Commands, ForkedCommands, json_lines, refused
from tiny_world import Tiny, build_shards

from transrec import weights
from transrec.data.examples.histories import open_folder
from transrec.runs import rebuild, run_folder
from transrec.runs.channels import Channels

CPU = torch.device("cpu")
# What a method does to its model differs: modules at sites, a matrix folded in, base weights that train.
CHANNELS = {
    "houlsby": ["adaptation={name: houlsby}", "seed=3"],
    "lora": ["adaptation={name: lora}", "model.objective={name: in_batch_softmax}"],
    "released": ["adaptation={name: lora, variant: released}", "seed=4"],
    "norms": ["adaptation={name: head_only, also_train: [layer_norm]}"],
    "prompt": ["adaptation={name: prompt, towers: [item]}"],
    "houlsby_small": ["adaptation={name: houlsby, bottleneck: {item: 4, user: 2}}"],
}


def train(commands: Commands, tiny: Tiny, run_dir: Path, *more: str) -> Path:
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=3", *more)
    assert finished.code == 0, finished.stderr
    return run_dir


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("channels")


@pytest.fixture(scope="module")
def source(runs: Path, tiny: Tiny, commands: ForkedCommands) -> Path:
    return train(commands, tiny, runs / "source", "optimizer.lr={backbone: 1.0e-3}")


@pytest.fixture(scope="module")
def other_source(runs: Path, tiny: Tiny, commands: ForkedCommands) -> Path:
    return train(commands, tiny, runs / "other_source", "seed=9")


@pytest.fixture(scope="module")
def other_shards(runs: Path) -> Path:
    return build_shards(runs / "shards", users=120, items=60, interactions=1500, seed=5)


@pytest.fixture(scope="module")
def adapted(runs: Path, tiny: Tiny, commands: ForkedCommands, source: Path, other_shards: Path) -> list[Path]:
    """A channel of each kind, every second one on other shards."""
    rate = ["optimizer.lr={adapter: 1.0e-2, head: 1.0e-2, backbone: 1.0e-2}", f"init_from={source}"]
    places = [[], [f"data.path={other_shards}", "data.fraction=1.0"]]
    return [
        train(commands, tiny, runs / name, *rate, *settings, *places[i % 2])
        for i, (name, settings) in enumerate(CHANNELS.items())
    ]


# Together as alone


def test_channels_measure_together_what_their_runs_did(
    commands: ForkedCommands, adapted: list[Path], other_shards: Path
) -> None:
    finished = commands.run("evaluate", "--adapter", *adapted)
    results = json_lines(finished)
    assert [result["run"] for result in results] == list(map(str, adapted))
    for run_dir, result in zip(adapted, results, strict=True):
        assert result["test"] == json.loads((run_dir / "summary.json").read_text())["test"], run_dir.name
    assert [result["data"] == str(other_shards) for result in results] == [False, True] * 3
    assert finished.stdout.count("most_popular") == 4  # once for each set of users, and once by its targets
    assert all(run_dir.name in finished.stdout for run_dir in adapted)


def test_channels_measure_on_other_data_and_on_two_ranks(
    commands: ForkedCommands, source: Path, adapted: list[Path], other_shards: Path
) -> None:
    chosen = [adapted[0], adapted[1] / "export"]
    given = ["evaluate", "--run", source, "--data", other_shards, "--adapter", *chosen]
    one, two = (json_lines(commands.run(*given, ranks=ranks)) for ranks in (1, 2))
    assert one == two
    assert [result["data"] for result in one] == [str(other_shards)] * 2
    assert one[1]["test"] == json.loads((adapted[1] / "summary.json").read_text())["test"]


def test_the_base_is_loaded_once_and_lies_in_memory_once(
    monkeypatch: pytest.MonkeyPatch, source: Path, adapted: list[Path]
) -> None:
    read: list[Path] = []

    def counted(path: Path, _read=weights.read) -> dict[str, torch.Tensor]:
        read.append(path)
        return _read(path)

    monkeypatch.setattr(weights, "read", counted)
    channels = Channels(None, adapted, CPU)
    built = [channels.build(c, open_folder(c.experiment.data, None).index) for c in channels.members]
    assert read.count(source / "export" / "model.safetensors") == 1
    assert len(read) == 1 + len(adapted)
    words = "item_encoder.backbone.embeddings.word_embeddings.weight"
    assert len({model.get_parameter(words).data_ptr() for model in built}) == 1
    norms = "user_encoder.input_norm.weight"
    trained = [i for i, name in enumerate(CHANNELS) if name == "norms"]
    own = [built[i].get_parameter(norms).data_ptr() for i in trained]
    assert not {built[0].get_parameter(norms).data_ptr()} & set(own)


def test_the_order_of_channels_does_not_matter(adapted: list[Path]) -> None:
    """Nothing that one does to its model reaches another's, or the base."""
    states = []
    for folders in (adapted, adapted[::-1]):
        channels = Channels(None, folders, CPU)
        models = {c.name: channels.build(c, open_folder(c.experiment.data, None).index) for c in channels.members}
        states.append({name: model.state_dict() for name, model in models.items()})
    for name, state in states[0].items():
        alone = rebuild.rebuild_for(
            loaded := run_folder.load(adapted[0].parent / name),
            adapted[0].parent / name,
            open_folder(loaded.data, None).index,
        ).state_dict()
        assert state.keys() == states[1][name].keys() == alone.keys()
        for key, tensor in state.items():
            assert torch.equal(tensor, states[1][name][key]), (name, key)
            assert torch.equal(tensor, alone[key]), (name, key)


def test_every_adapter_recommends_what_its_run_does(
    commands: ForkedCommands, adapted: list[Path], tmp_path: Path
) -> None:
    histories = tmp_path / "histories.jsonl"
    histories.write_text('{"user": "ann", "history": ["item-3", "item-17"]}\n{"user": "bob", "history": ["item-5"]}\n')
    together = json_lines(commands.run("recommend", "--histories", histories, "--adapter", *adapted[:2]))
    assert [(line["adapter"], line["user"]) for line in together] == [
        (str(run_dir), user) for run_dir in adapted[:2] for user in ("ann", "bob")
    ]
    alone = [
        line
        for run_dir in adapted[:2]
        for line in json_lines(commands.run("recommend", "--histories", histories, "--run", run_dir))
    ]
    assert [line["recommendations"] for line in together] == [line["recommendations"] for line in alone]
    assert together[0]["recommendations"] != together[2]["recommendations"]
    shown = commands.run("recommend", "--history", "item-3", "--adapter", *adapted[:2])
    assert all(run_dir.name in shown.stdout for run_dir in adapted[:2]), shown.stderr


def test_an_export_is_used_away_from_its_run(
    commands: ForkedCommands, source: Path, adapted: list[Path], tmp_path: Path
) -> None:
    moved = shutil.copytree(adapted[2] / "export", tmp_path / "moved")
    data = run_folder.load(adapted[2]).data.path
    (result,) = json_lines(commands.run("evaluate", "--run", source, "--adapter", moved, "--data", data))
    assert result["test"] == json.loads((adapted[2] / "summary.json").read_text())["test"]
    for command, option in (("evaluate", "--data"), ("recommend", "--catalogue")):
        more = ["--history", "item-3"] if command == "recommend" else []
        assert f"name shards with {option}" in refused(
            commands.run(command, "--run", source, "--adapter", moved, *more)
        )
    assert "is not in its run folder: name its base with --run" in refused(
        commands.run("evaluate", "--adapter", moved, "--data", data)
    )


# Refusals


def test_an_adapter_of_another_base_is_refused(
    commands: ForkedCommands, tiny: Tiny, adapted: list[Path], other_source: Path, run_dir: Path
) -> None:
    stranger = train(commands, tiny, run_dir, f"init_from={other_source}", "adaptation={name: houlsby}")
    assert "was trained on a base with hash" in refused(
        commands.run("evaluate", "--run", other_source, "--adapter", adapted[0])
    )
    refusal = refused(commands.run("evaluate", "--run", other_source, "--adapter", stranger, adapted[0]))
    assert str(adapted[0]) in refusal


def test_an_adapter_of_a_base_of_another_shape_is_refused(
    commands: ForkedCommands, tiny: Tiny, adapted: list[Path], run_dir: Path
) -> None:
    wide = train(commands, tiny, run_dir, "model.width=32")
    assert "does not fit this base: weights do not fit" in refused(
        commands.run("evaluate", "--run", wide, "--adapter", adapted[0])
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapter", "{source}"], "holds a whole model, not an adapter: name it with --run"),
        ([], "name a run (--run), or adapters (--adapter), or both"),
        (["--adapter", "/nowhere"], "/nowhere does not exist: give the folder to which it was moved"),
    ],
)
def test_a_wrong_name_is_explained(commands: ForkedCommands, source: Path, arguments: list[str], message: str) -> None:
    assert message in refused(commands.run("evaluate", *(a.format(source=source) for a in arguments)))
