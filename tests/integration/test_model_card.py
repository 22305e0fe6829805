"""The card of a model, from the summary of its run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ForkedCommands, json_lines
from tiny_world import Tiny


@pytest.fixture(scope="module")
def run(commands: ForkedCommands, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run, and the one document that its training printed with `--json`."""
    run_dir = tmp_path_factory.mktemp("run") / "red wines"
    finished = commands.run("train", "--config", tiny.config, f"run_dir={run_dir}", "train.steps=2", "--json")
    (document,) = json_lines(finished)
    assert finished.stdout.count("\n") == 1, "nothing but the document"
    return run_dir, document


def test_training_prints_its_summary_as_one_document(run: tuple[Path, dict[str, Any]]) -> None:
    run_dir, document = run
    assert document == {"run": str(run_dir), **json.loads((run_dir / "summary.json").read_text())}


def test_the_card_has_the_test_metrics_with_intervals_and_those_of_baselines(run: tuple[Path, dict[str, Any]]) -> None:
    run_dir, summary = run
    text = (run_dir / "export" / "README.md").read_text("utf-8")
    low, high = summary["test"]["NDCG@10_interval"]
    assert f"{summary['test']['NDCG@10']:.4f} [{low:.4f}, {high:.4f}]" in text
    for name, row in summary["baselines"].items():
        assert f"| {name} | {row['HR@10']:.4f} [" in text
    assert f"{summary['parameters']['trainable']:,} were trained" in text
    assert "95% intervals over users" in text


def test_its_front_matter_is_that_of_hugging_face(run: tuple[Path, dict[str, Any]]) -> None:
    run_dir, summary = run
    _, head, _ = (run_dir / "export" / "README.md").read_text("utf-8").split("---\n", 2)
    front = yaml.safe_load(head)
    assert (front["license"], front["library_name"]) == ("unknown", "transrec")
    (model,) = front["model-index"]
    assert model["name"] == "red wines"
    metrics = {metric["type"]: metric["value"] for metric in model["results"][0]["metrics"]}
    assert metrics["HR@10"] == summary["test"]["HR@10"]


def test_the_card_names_the_data_and_where_the_weights_come_from(run: tuple[Path, dict[str, Any]], tiny: Tiny) -> None:
    text = (run[0] / "export" / "README.md").read_text("utf-8")
    assert f"| shards | `{tiny.shards.name}` |" in text
    assert str(tiny.shards.parent) not in text, "a card is shared"
    assert "| source | `synthetic` |" in text
    assert "SHA-256 of the shards' index" in text


def test_the_card_of_an_adapter_says_how_to_load_it_and_which_weights_it_holds(
    run: tuple[Path, dict[str, Any]], commands: ForkedCommands, tiny: Tiny, tmp_path: Path
) -> None:
    arguments = ["--config", tiny.config, f"run_dir={tmp_path / 'lora'}", f"init_from={run[0]}", "adaptation.name=lora"]
    finished = commands.run("train", *arguments, "train.steps=2", "train.evaluate_every=never")
    assert "trained for 2 steps; without validations, the last weights are exported." in finished.stdout
    text = (tmp_path / "lora" / "export" / "README.md").read_text("utf-8")
    assert '(run,) = transrec.load_adapters(["lora"], base="red wines")' in text
    assert "| steps | 2; without validations, the last weights are exported |" in text
    assert "transrec.load_run" in (run[0] / "export" / "README.md").read_text("utf-8")
