"""The evidence of a run, counted once per set of shards and node, and kept in the node's cache."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transrec.data.content.filled_folder import filled_folder
from transrec.data.examples.next_item import NextItemExamples
from transrec.data.peers import Peers
from transrec.evidence import EvidenceConfig
from transrec.protocols import Evidence, Examples, ModelSettings

_CUTS_HISTORIES = ("fraction", "min_interactions", "windows", "split")  # settings that decide what is counted


def look_up(model: ModelSettings, examples: Examples, peers: Peers) -> None:
    """Let the batches and questions of `examples` carry the evidence that `model` asks for.

    The first process of a node counts it while the others wait; every rank must call this.
    """
    settings = model.looked_up()
    if settings:
        assert isinstance(examples, NextItemExamples)  # `check_examples` of a model refuses others
        examples.evidence = open_evidence(settings, examples, peers)


def open_evidence(settings: Sequence[EvidenceConfig], examples: NextItemExamples, peers: Peers) -> tuple[Evidence, ...]:
    """Evidence of each kind, counted from the training histories of `examples`."""
    return tuple(peers.in_turn(f"count {one.key}", partial(_open, one, examples)) for one in settings)


def _open(settings: EvidenceConfig, examples: NextItemExamples) -> Evidence:
    place = examples.config.cache.expanduser() / f"evidence-{_digest(settings, examples)[:24]}"
    return settings.load(filled_folder(place, partial(_fill, settings, examples)))


def _fill(settings: EvidenceConfig, examples: NextItemExamples, folder: Path) -> None:
    settings.fill(folder, examples.training_sequences, examples.num_items)


def _digest(settings: EvidenceConfig, examples: NextItemExamples) -> str:
    """Hash of everything that the tables depend on."""
    data: dict[str, Any] = examples.config.model_dump(mode="json", include=set(_CUTS_HISTORIES))
    if examples.config.windows == "last":
        data["max_length"] = examples.max_length
    what = [settings.tables(), data, examples.folder.index_sha256, sorted(examples.skipped)]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
