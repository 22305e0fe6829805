"""The card of a set of shards: README.md beside it, with the front matter that Hugging Face reads.

It depends only on the set, so the same build writes the same card. It is not listed in `index.json`, because people may
edit it, and a set without a card is complete.
"""

import json
from pathlib import Path

import numpy as np

from data_tools.inspection import length_figures, log_bins
from transrec.data.shards.schema import CARD_FILE, ShardIndex

_LICENCES = {
    "sample": "cc0-1.0",
    "synthetic": "cc0-1.0",
}  # by source; the data of other sources does not state its licence
_UNKNOWN = "unknown"
_SIZES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8, 10**9)  # of Hugging Face's size categories
_SIZE_NAMES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")


def write_card(folder: Path, index: ShardIndex, lengths: np.ndarray) -> None:
    """Write the card of a set.

    Args:
        lengths: the lengths of the users' histories.
    """
    (folder / CARD_FILE).write_text(card(index, lengths), encoding="utf-8", newline="\n")


def card(index: ShardIndex, lengths: np.ndarray) -> str:
    """The text of the card."""
    source = str(index.build["source"])
    licence = _LICENCES.get(source, _UNKNOWN)
    head = [
        "---",
        f"license: {licence}",
        "tags: [recommendation, transrec]",
        f"size_categories: [{_size_category(index.counts.interactions)}]",
        f"pretty_name: {json.dumps(f'Interactions from {source}')}",
        "---",
    ]
    parts = [
        f"# Interactions from `{source}`",
        "Users, items and interactions as shards for TransRec.",
        _table("count", "", _counts(index)),
        "## Histories",
        "Interactions of a user: median {median:,.0f}, mean {mean:,.1f}, longest {longest:,}.".format(
            **length_figures(lengths)
        ),
        _table("interactions", "users", {label: f"{users:,}" for label, users in log_bins(lengths)}),
        "## Columns",
        _table("of", "columns", _columns(index)),
        "## How it was built",
        f"`transrec data build --source {source}`, with these options:",
        f"```json\n{json.dumps(index.build, indent=2, ensure_ascii=False)}\n```",
        _left_out(index),
        f"Version {index.schema_version} of the format. SHA-256 of the item ids: `{index.item_ids_sha256}`. "
        "`transrec data verify` compares every file with `index.json`, and `transrec data inspect` shows samples.",
        "## Licence",
        _licence(licence),
    ]
    return "\n".join(head) + "\n\n" + "\n\n".join(parts) + "\n"


def _counts(index: ShardIndex) -> dict[str, str]:
    counts = index.counts
    found = {"users": counts.users, "items": counts.items, "interactions": counts.interactions}
    found |= {"items with image": counts.images} | ({"impressions": counts.impressions} if index.heads else {})
    return {name: f"{count:,}" for name, count in found.items()}


def _columns(index: ShardIndex) -> dict[str, str]:
    found = {
        "items": index.text_fields,
        "users": index.user_columns,
        "labels of impressions": index.heads,
        "context of impressions": index.context_columns,
    }
    return {name: ", ".join(f"`{column}`" for column in columns) for name, columns in found.items() if columns}


def _left_out(index: ShardIndex) -> str:
    counts = index.counts
    found = {
        "dropped by filters": counts.dropped,
        "rejected rows, listed in `rejects.jsonl`": counts.rejects,
        "items with markup removed, by column": counts.cleaned,
    }
    lines = [
        f"- {name}: {', '.join(f'{reason} {rows:,}' for reason, rows in rows_of.items())}"
        for name, rows_of in found.items()
        if any(rows_of.values())
    ]
    return "\n".join(lines) or "Nothing was dropped or rejected."


def _licence(licence: str) -> str:
    if licence == _UNKNOWN:
        return (
            "Not known: write the licence of the data here and its identifier at `license:` above, before you share it."
        )
    return f"`{licence}`"


def _size_category(interactions: int) -> str:
    above = int(np.searchsorted(_SIZES, interactions, side="right"))
    if above == 0:
        return f"n<{_SIZE_NAMES[0]}"
    return f"n>{_SIZE_NAMES[-1]}" if above == len(_SIZES) else f"{_SIZE_NAMES[above - 1]}<n<{_SIZE_NAMES[above]}"


def _table(first: str, second: str, rows: dict[str, str]) -> str:
    return "\n".join([f"| {first} | {second} |", "| --- | --- |", *(f"| {name} | {v} |" for name, v in rows.items())])
