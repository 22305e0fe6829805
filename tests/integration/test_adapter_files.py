"""Adapter files: the same bytes from every topology, small, and all that a run learnt."""

import hashlib
import json
from pathlib import Path

import pytest
from commands import ForkedCommands
from safetensors.torch import save_file
from tiny_world import Tiny

from transrec import weights
from transrec.config import load
from transrec.experiment import Experiment

METHODS = {
    "houlsby": "adaptation={name: houlsby, also_train: [head], bottleneck: {item: 8, user: 4}}",
    "full": "adaptation={name: full}",
}


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_same_bytes_whatever_they_were_gathered_from(
    commands: ForkedCommands, tiny: Tiny, tmp_path: Path, method: str
) -> None:
    """With learning rates of zero, what is put in is what comes out, through the engine and the real export."""
    still = ["optimizer.lr={backbone: 0, head: 0, adapter: 0}", "train.steps=1", METHODS[method]]
    digests = {}
    for stage, ranks in ((0, 1), (2, 1), (3, 1), (0, 2), (2, 2), (3, 2)):
        run_dir = tmp_path / f"{stage}-{ranks}"
        settings = [f"run_dir={run_dir}", f"zero.stage={stage}", *still]
        finished = commands.run("train", "--config", tiny.config, *settings, ranks=ranks)
        assert finished.code == 0, finished.stderr
        files = sorted(path for path in (run_dir / "export").iterdir() if path.is_file() and path.suffix != ".md")
        assert any(path.suffix == ".safetensors" for path in files)
        digests[stage, ranks] = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert all(digest == digests[0, 1] for digest in digests.values()), digests


MINILM = ["model.item_encoder.backbone=all-MiniLM-L6-v2", "model.item_encoder.pretrained=true", "model.width=64"]
HOULSBY = "adaptation={name: houlsby, bottleneck: {item: 64, user: 16}}"


@pytest.mark.slow
def test_an_adapter_is_small_and_gives_the_metrics_of_its_run(
    commands: ForkedCommands, tiny: Tiny, tmp_path: Path
) -> None:
    """Two layers of MiniLM: 15 million weights in the base, and the adapters of both towers beside them."""
    source, run_dir = tmp_path / "source", tmp_path / "adapted"
    size = [*MINILM, "model.item_encoder.layers=2", "model.user_encoder.layers=2", "train.steps=2"]
    for command in ([f"run_dir={source}"], [f"run_dir={run_dir}", f"init_from={source}", HOULSBY]):
        finished = commands.run("train", "--config", tiny.config, *size, *command)
        assert finished.code == 0, finished.stderr
    whole = (source / "export" / "model.safetensors").stat().st_size
    adapter = (run_dir / "export" / "adapter_model.safetensors").stat().st_size
    assert adapter < 0.03 * whole, f"{adapter / whole:.2%}"
    summary, of_source = (json.loads((folder / "summary.json").read_text()) for folder in (run_dir, source))
    assert summary["test"] != of_source["test"], "an adapter that says nothing would be no proof"
    assert summary["export_bytes"] == {"adapter_model.safetensors": adapter}
    finished = commands.run("evaluate", "--run", source, "--adapter", run_dir)
    assert json.loads(finished.stdout.splitlines()[-1])["test"] == summary["test"]


@pytest.mark.slow
def test_all_six_layers_of_minilm_have_small_adapters(tiny: Tiny, tmp_path: Path) -> None:
    experiment = load(Experiment, tiny.config, ["run_dir=unused", *MINILM, "model.user_encoder.layers=2", HOULSBY])
    model = experiment.model.build(num_items=80)
    save_file(model.state_dict(), tmp_path / "whole.safetensors")
    experiment.adaptation.apply(model)
    trained = dict(weights.gathered(model, weights.trainable_names(model)))
    assert all(".adapter." in name for name in trained)
    weights.write(tmp_path / "adapter.safetensors", trained)
    whole, adapter = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "adapter"))
    print(f"{adapter:,} of {whole:,} bytes: {adapter / whole:.2%}")
    assert adapter < 0.03 * whole
