"""The golden runs: `python tests/support/golden_runs.py FOLDER` writes FOLDER/<kind>.json of each kind.

A kind is a shipped configuration made tiny; the curve of its run is read from the run folder alone.
"""

import json
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from commands import Commands, ForkedCommands
from pictured import WORDS, build_pictured, random_histories, vision_model
from run_folder import records
from tiny_world import build_backbone, build_shards

CONFIGS = Path(__file__).parents[2] / "configs"
PICTURED_ITEMS = 58

SMALL = [
    "model.width=16",
    "model.max_length=10",
    "data.workers=0",
    "train.steps=20",
    "train.batch_size=16",
    "train.evaluate_every=10",
    "train.checkpoint_every=never",
]


def make_inputs(folder: Path) -> None:
    """Items with texts; items with an image, a text, both or (one) neither; a tiny backbone of each modality.

    No two items are alike: with equal scores the last bit would decide on ranks.
    """
    described = build_shards(folder / "described")
    images, texts = range(1, 46), range(16, 58)  # the twelve blurbs without an image all differ
    pictured = build_pictured(folder / "pictured", PICTURED_ITEMS, images, texts, random_histories(150, PICTURED_ITEMS))
    build_backbone(folder / "text", described, pictured, more_words=WORDS)
    vision_model("dinov2", mlp_ratio=4).save_pretrained(folder / "vision")


def kinds(folder: Path) -> dict[str, list[str]]:
    """The configuration file of each kind and what changes in it; a run may start from one above it."""
    described, pictured = f"data.path={folder}/described", f"data.path={folder}/pictured/shards"
    text = f"model.item_encoder={{backbone: {folder}/text, chunk_tokens: 400}}"
    image = f"model.item_encoder={{backbone: {folder}/vision, chunk_images: 16}}"
    both = [
        f"model.item_encoder.text={{backbone: {folder}/text, fields: [blurb]}}",
        f"model.item_encoder.image={{backbone: {folder}/vision}}",
    ]
    # The frozen layers below the adapters are kept: nothing below the second layer trains.
    upper_layer = "adaptation={layers: [1], also_train: [head], bottleneck: {item: 8}}"
    short = "model.user_encoder.dilations=[1, 2]"
    classes = [
        "data.examples.targets={column: pace}",
        "model.user_encoder.causal=false",
        f"init_from={folder}/runs/cloze",
    ]
    return {
        "ids": ["transrec/id_sasrec", described, "data.workers=1"],
        "gru4rec": ["transrec/id_gru4rec", described],
        "text": ["transrec/text_sasrec", described, text],
        "cpc": ["transrec/text_cpc", described, text],
        "houlsby": ["transrec/text_houlsby", described, text, "adaptation.bottleneck.item=8"],
        "image": ["transrec/image_houlsby", pictured, image, upper_layer],
        "multimodal": ["transrec/multimodal_sasrec", pictured, *both, "data.workers=1"],
        "cloze": ["peterrec/nextitnet_cloze", described, short],
        "task": ["peterrec/peter_rec", described, short, *classes],
    }


def train(commands: Commands, folder: Path, kind: str) -> Path:
    config, *changes = kinds(folder)[kind]
    run_dir = folder / "runs" / kind
    places = [f"run_dir={run_dir}", f"data.cache={folder / 'cache'}"]
    finished = commands.run("train", "--config", CONFIGS / f"{config}.yaml", *places, *SMALL, *changes)
    assert finished.code == 0, finished.stderr
    return run_dir


def curve(run_dir: Path) -> dict[str, Any]:
    summary = json.loads((run_dir / "summary.json").read_text("utf-8"))
    parameters = summary["parameters"]
    return {
        "torch": version("torch"),
        "data": summary["data"],
        "parameters": {name: parameters[name] for name in ("total", "trainable")} | parameters["towers"],
        "steps": [{name: record[name] for name in ("step", "loss", "batch")} for record in records(run_dir, "step")],
        "valid": [{k: v for k, v in record.items() if k != "kind"} for record in records(run_dir, "valid")],
        "test": summary["test"],
    }


def as_text(curve: dict[str, Any]) -> str:
    """JSON with one step, validation, metric or tower a line, for reading in a diff."""
    return "{\n" + ",\n".join(f'  "{name}": {_by_line(value)}' for name, value in curve.items()) + "\n}\n"


def _by_line(value: Any) -> str:
    if isinstance(value, list):
        return _block("[]", map(json.dumps, value))
    if isinstance(value, dict):
        return _block("{}", (f'"{name}": {json.dumps(each)}' for name, each in value.items()))
    return json.dumps(value)


def _block(brackets: str, rows: Iterable[str]) -> str:
    return f"{brackets[0]}\n" + ",\n".join(f"    {row}" for row in rows) + f"\n  {brackets[1]}"


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = ForkedCommands(folder)  # its imports go on while the inputs are made
        make_inputs(folder)
        for kind in kinds(folder):
            run_dir = train(commands, folder, kind)
            (output / f"{kind}.json").write_text(as_text(curve(run_dir)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
