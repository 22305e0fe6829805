"""`launch/export.py`: other programs get the trained backbone from `AutoModel`, complete."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Commands, ForkedCommands, json_lines, refused
from portable_runs import random_ids
from pyarrow import parquet
from tiny_world import Tiny
from transformers import AutoModel, AutoTokenizer

from transrec.commands.export import main
from transrec.item_encoders import layer_by_layer
from transrec.runs.rebuild import rebuild
from transrec.runs.run_folder import load
from transrec.runs.vector_files import VectorFolder

RATES = "optimizer.lr={backbone: 1.0e-2, head: 1.0e-2, adapter: 1.0e-1}"
HEAD = "also_train: [head]"


def train(commands: Commands, tiny: Tiny, run_dir: Path, *more: str) -> Path:
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=3", RATES, *more)
    assert finished.code == 0, finished.stderr
    return run_dir


def assert_same_states(folder: Path, run_dir: Path) -> None:
    """Of the loaded model and of the run's own backbone, in its own forward and layer by layer."""
    loaded, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    own = rebuild(load(run_dir), run_dir / "export", 80).eval().item_encoder.backbone
    tokens = AutoTokenizer.from_pretrained(folder)(["title 3", "a longer title 17"], padding=True, return_tensors="pt")
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = loaded.eval()(**inputs)
        states = layer_by_layer.run_layers(own, layer_by_layer.embed(own, inputs), inputs["attention_mask"]).states[-1]
        torch.testing.assert_close(found.last_hidden_state, states, rtol=1e-5, atol=1e-5)
        if not any(name.endswith("adapter") for name, _ in own.named_modules()):
            assert torch.equal(found.last_hidden_state, own(**inputs).last_hidden_state)
    assert not found.pooler_output.any()


@pytest.mark.parametrize(
    "settings",
    [["model.item_encoder.layers=1"], [f"adaptation={{name: houlsby, towers: [user], {HEAD}}}"]],
    ids=["full", "adapters in the user tower"],
)
def test_auto_model_loads_what_was_trained(
    commands: ForkedCommands, tiny: Tiny, run_dir: Path, tmp_path: Path, settings: list[str]
) -> None:
    train(commands, tiny, run_dir, *settings)
    finished = commands.run("export", "--run", run_dir, "--output", tmp_path / "tower")
    assert finished.code == 0, finished.stderr
    assert f"text backbone: {tmp_path / 'tower'}" in finished.stdout
    assert_same_states(tmp_path / "tower", run_dir)


def test_lora_is_folded_in(commands: ForkedCommands, tiny: Tiny, run_dir: Path, tmp_path: Path) -> None:
    train(commands, tiny, run_dir, f"adaptation={{name: lora, {HEAD}}}")
    assert commands.run("export", "--run", run_dir, "--output", tmp_path / "tower").code == 0
    assert_same_states(tmp_path / "tower", run_dir)
    with pytest.raises(AssertionError):  # it is no formality: the base alone gives other states
        assert_same_states(tiny.backbone, run_dir)


def test_a_base_that_moved_is_named(commands: ForkedCommands, tiny: Tiny, run_dir: Path, tmp_path: Path) -> None:
    source = train(commands, tiny, tmp_path / "source")
    train(commands, tiny, run_dir, f"adaptation={{name: lora, {HEAD}}}", f"init_from={source}")
    assert commands.run("export", "--run", run_dir, "--output", tmp_path / "before").code == 0
    moved = source.rename(tmp_path / "moved")
    message = refused(commands.run("export", "--run", run_dir, "--output", tmp_path / "refused"))
    assert f"give its new path with --adapter {run_dir} --run BASE" in message
    for adapter, more in ((run_dir, []), (run_dir / "export", []), (run_dir, ["--peft"])):
        output = tmp_path / f"of-{adapter.name}{''.join(more)}"
        named = commands.run("export", "--run", moved, "--adapter", adapter, "--output", output, *more)
        assert named.code == 0, named.stderr
        if not more:
            weights = "model.safetensors"
            assert (output / weights).read_bytes() == (tmp_path / "before" / weights).read_bytes()
    resumed = [f"adaptation={{name: lora, {HEAD}}}", f"init_from={moved}"]
    train(commands, tiny, run_dir, *resumed)
    assert f"init_from: {moved}" in (run_dir / "config.yaml").read_text()


def test_peft_puts_lora_on_the_backbone_it_was_trained_over(
    commands: ForkedCommands, tiny: Tiny, run_dir: Path, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    train(commands, tiny, run_dir, f"adaptation={{name: lora, {HEAD}}}")
    finished = commands.run("export", "--run", run_dir, "--output", tmp_path / "lora", "--peft")
    assert finished.code == 0, finished.stderr
    assert f"text LoRA: {tmp_path / 'lora'}" in finished.stdout
    assert commands.run("export", "--run", run_dir, "--output", tmp_path / "tower").code == 0
    ids = torch.tensor([[2, 5, 9, 3]])
    base, folded = (AutoModel.from_pretrained(folder).eval() for folder in (tiny.backbone, tmp_path / "tower"))
    with torch.no_grad():
        plain, expected = (model(ids).last_hidden_state for model in (base, folded))
        found = peft.PeftModel.from_pretrained(base, tmp_path / "lora").eval()(ids).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (f"adaptation={{name: houlsby, towers: [user], {HEAD}}}", "no backbone has a LoRA to write for PEFT"),
        ("adaptation={name: lora, also_train: [head, layer_norm]}", "was trained in addition to LoRA"),
    ],
)
def test_what_peft_cannot_express_is_refused(
    commands: ForkedCommands, tiny: Tiny, run_dir: Path, tmp_path: Path, settings: str, message: str
) -> None:
    train(commands, tiny, run_dir, settings)
    finished = commands.run("export", "--run", run_dir, "--output", tmp_path / "lora", "--peft")
    assert (finished.code, "Traceback" in finished.stderr) == (1, False)
    assert message in finished.stderr
    assert not (tmp_path / "lora").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (f"adaptation={{name: houlsby, {HEAD}}}", "is a Bottleneck, which a Hugging Face model cannot represent"),
        ("model.item_encoder={name: id_embedding}", "has no backbone to export: its items are embedded by id"),
    ],
)
def test_what_is_no_backbone_of_its_own_is_refused(
    commands: ForkedCommands, tiny: Tiny, run_dir: Path, tmp_path: Path, settings: str, message: str
) -> None:
    train(commands, tiny, run_dir, settings)
    finished = commands.run("export", "--run", run_dir, "--output", tmp_path / "tower")
    assert (finished.code, "Traceback" in finished.stderr) == (1, False)
    assert message in finished.stderr
    assert not (tmp_path / "tower").exists()


def test_a_folder_with_something_in_it_is_left_alone(commands: ForkedCommands, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    finished = commands.run("export", "--run", tmp_path, "--output", tmp_path)
    assert "is not empty: choose another --output" in finished.stderr


def test_vectors_of_an_adapter_and_of_users(
    commands: ForkedCommands, tiny: Tiny, run_dir: Path, tmp_path: Path
) -> None:
    train(commands, tiny, run_dir)
    adapted = train(commands, tiny, tmp_path / "adapted", f"init_from={run_dir}", "adaptation={name: houlsby}")
    histories, out = tmp_path / "users.jsonl", tmp_path / "out"
    lines = [
        {"user": f"u{i}", "history": ids} for i, ids in enumerate(random_ids([f"item-{i}" for i in range(80)], 40))
    ]
    histories.write_text("\n".join(map(json.dumps, [*lines, {"history": ["gone"]}])))
    more = ["--adapter", adapted, "--output", out, "--vectors"]
    finished = commands.run("export", *more, "--histories", histories)
    assert finished.code == 0, finished.stderr
    assert f"80 items, of which 80 were encoded: {out}" in finished.stdout
    assert "40 users; 1 have no known item and were left out" in finished.stdout
    assert "left out 1 unknown item ids" in finished.stderr
    users = parquet.read_table(out / "users.parquet").to_pydict()
    found = VectorFolder.read(out).nearest(
        np.array(users["vector"], np.float32), 10, [line["history"] for line in lines]
    )
    answers = json_lines(commands.run("recommend", "--adapter", adapted, "--histories", histories))
    assert users["user"] == [answer["user"] for answer in answers[:40]]
    for rows, answer in zip(found, answers, strict=False):
        assert [row["item_id"] for row in rows] == [row["item_id"] for row in answer["recommendations"]]
    assert "is not empty: choose another --output, or add to it" in refused(commands.run("export", *more))
    again = commands.run("export", *more, "--new-items")
    assert f"80 items, of which 0 were encoded: {out}" in again.stdout
    assert "40 users, as they were: give --histories to encode them again" in again.stdout
    assert parquet.read_table(out / "users.parquet").to_pydict() == users
    assert "has the vectors of another model" in refused(
        commands.run("export", "--run", run_dir, "--output", out, "--vectors", "--new-items")
    )


def test_vectors_leave_evidence_out_and_say_so(
    commands: ForkedCommands, tiny: Tiny, run_dir: Path, tmp_path: Path
) -> None:
    train(commands, tiny, run_dir, "model.evidence=[{name: co_occurrence}]")
    finished = commands.run("export", "--run", run_dir, "--output", tmp_path / "out", "--vectors")
    assert finished.code == 0
    assert "the vectors leave out the model's evidence (co_occurrence)" in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "r", "--index", "flat"], "--index needs --vectors"),
        (["--run", "r", "--new-items"], "--new-items needs --vectors"),
        (["--vectors"], "name a run with --run, or an adapter with --adapter"),
        ([], "name a run with --run"),
    ],
)
def test_arguments_that_do_not_belong_together_are_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["--output", "out", *arguments])
    assert message in capsys.readouterr().err
