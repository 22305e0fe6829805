"""The model card: README.md in the export of a run, with the front matter that Hugging Face reads."""

from pathlib import Path
from typing import Any

import yaml

from transrec.data.shards.remote import public
from transrec.experiment import Experiment
from transrec.files import write_text
from transrec.protocols import Examples
from transrec.runs.export import EXPORT_FOLDER, is_adapted
from transrec.runs.summary import chosen, energy

CARD_FILE = "README.md"
_INTERVAL = "_interval"
_UNKNOWN = "unknown"


def write_model_card(experiment: Experiment, examples: Examples, summary: dict[str, Any]) -> None:
    """Write the model card of a run into its export; call it again once the summary has the baselines.

    Raises:
        StorageError: the card cannot be written.
    """
    write_text(experiment.run_dir / EXPORT_FOLDER / CARD_FILE, model_card(experiment, examples, summary))


def model_card(experiment: Experiment, examples: Examples, summary: dict[str, Any]) -> str:
    """The text of the card."""
    front = yaml.safe_dump(_front_matter(experiment, summary), sort_keys=False, allow_unicode=True)
    name = experiment.run_dir.absolute().name
    parts = [
        f"# {name}",
        _model(experiment),
        "## Data",
        _table("", "", _data(experiment, examples, summary)),
        "## Test",
        f"Brackets show {experiment.evaluation.confidence:.0%} intervals over users{_sample(summary)}.",
        _results(summary),
        "## Cost",
        _table("", "", _cost(summary)),
        "## Lineage",
        _table("", "", _lineage(experiment, examples, summary)),
        "## Use",
        _use(experiment),
        "## Licence",
        "Unknown: before you share the weights, write their licence here and its identifier at `license:` above. "
        "The licence depends on the data and on the pretrained model from which training started.",
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def _use(experiment: Experiment) -> str:
    name = experiment.run_dir.absolute().name
    loaded = f'run = transrec.load_run("{name}")  # the run folder that holds this export'
    if is_adapted(experiment.run_dir / EXPORT_FOLDER):
        base = f'base="{_place(experiment.init_from)}"' if experiment.init_from else "base=…"
        loaded = f'(run,) = transrec.load_adapters(["{name}"], {base})  # this export, or its run folder'
    return f'```python\nimport transrec\n\n{loaded}\nrun.recommend(["item id", "item id"], top=10)\n```'


def _front_matter(experiment: Experiment, summary: dict[str, Any]) -> dict[str, Any]:
    metrics = [
        {"type": name, "value": value, "name": name} for name, value in summary["test"].items() if _INTERVAL not in name
    ]
    result = {
        "task": {"type": "recommendation", "name": experiment.data.examples.name},
        "dataset": {"type": "transrec", "name": _place(experiment.data.path)},
        "metrics": metrics,
    }
    return {
        "license": _UNKNOWN,
        "library_name": "transrec",
        "tags": ["recommendation", experiment.model.name, experiment.adaptation.name],
        "model-index": [{"name": experiment.run_dir.absolute().name, "results": [result]}],
    }


def _place(place: Path | str) -> str:
    """The name of a folder, without its path on this machine; a URL without its password."""
    return place.name if isinstance(place, Path) else public(place)


def _model(experiment: Experiment) -> str:
    parts = experiment.model.model_dump(mode="json").items()
    named = [
        f"{key.replace('_', ' ')} `{part['name']}`" for key, part in parts if isinstance(part, dict) and "name" in part
    ]
    return f"A `{experiment.model.name}` of TransRec: {', '.join(named)}; adaptation `{experiment.adaptation.name}`."


def _data(experiment: Experiment, examples: Examples, summary: dict[str, Any]) -> dict[str, str]:
    counts = examples.folder.index.counts
    sizes = {name: f"{value:,}" for name, value in summary["data"].items() if isinstance(value, int | float)}
    found = {
        "shards": f"`{_place(experiment.data.path)}`",
        "source": f"`{examples.folder.index.build.get('source')}`",
        "users, items, interactions": f"{counts.users:,}, {counts.items:,}, {counts.interactions:,}",
    }
    return found | {f"trained on: {name}": size for name, size in sizes.items()}


def _sample(summary: dict[str, Any]) -> str:
    sample = summary["samples"].get("test")
    return "" if sample is None else f" ({sample['users']:,} of {sample['of']:,} were evaluated)"


def _results(summary: dict[str, Any]) -> str:
    rows = {**summary.get("baselines", {}), "this model": summary["test"]}
    metrics = [name for name in summary["test"] if not name.endswith(_INTERVAL)]
    lines = [f"| | {' | '.join(metrics)} |", "| --- |" + " --- |" * len(metrics)]
    lines += [f"| {name} | {' | '.join(_cell(row, m) for m in metrics)} |" for name, row in rows.items()]
    return "\n".join(lines)


def _cell(row: dict[str, Any], metric: str) -> str:
    if metric not in row:
        return "–"
    low, high = row[f"{metric}{_INTERVAL}"]
    return f"{row[metric]:.4f} [{low:.4f}, {high:.4f}]"


def _cost(summary: dict[str, Any]) -> dict[str, str]:
    parameters = summary["parameters"]
    found = {
        "parameters": f"{parameters['total']:,}, of which {parameters['trainable']:,} were trained",
        "training": f"{summary['steps']:,} steps in {summary['seconds']:,.0f} s, "
        f"{summary['users_per_second']:,} users per second",
        "peak memory": f"{summary['peak_memory_bytes'] / 2**20:,.0f} MiB",
    }
    if (flops := summary.get("flops_per_user")) is not None:
        found["MFLOPs per user"] = f"{flops['forward'] / 1e6:,.1f} forward, {flops['backward'] / 1e6:,.1f} backward"
    if "energy_joules" in summary:
        found["energy of training"] = energy(summary["energy_joules"])
    return found


def _lineage(experiment: Experiment, examples: Examples, summary: dict[str, Any]) -> dict[str, str]:
    started = experiment.init_from
    return {
        "initial weights": f"`{_place(started)}`" if started else "pretrained or random",
        "steps": f"{summary['steps']:,}; {chosen(summary)}",
        "seed": str(experiment.seed),
        "SHA-256 of the shards' index": f"`{examples.folder.index_sha256}`",
        "SHA-256 of the item ids": f"`{examples.folder.index.item_ids_sha256}`",
        "users and items of a step": "`transrec lineage --run RUN --step N`",
    }


def _table(first: str, second: str, rows: dict[str, str]) -> str:
    return "\n".join([f"| {first} | {second} |", "| --- | --- |", *(f"| {name} | {v} |" for name, v in rows.items())])
