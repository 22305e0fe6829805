"""Summarises a folder of shards, for people and for programs."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.columns import Columns
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from data_tools.progress import step
from data_tools.shard_reader import read_blocks, read_catalogue, read_records
from transrec.data.shards.schema import LABEL_PREFIX, ShardIndex
from transrec.terminal import shortened

BAR_CELLS = 16
SAMPLE_ITEMS = 3
SAMPLE_HISTORY = 5
_FIRST_YEAR = 366 * 86_400  # seconds: times in the year 1970 are assumed to be positions
_NO_LENGTHS = np.zeros(0, np.int32)
_OWN_NAMES = ("item_id", "title", "text")  # of every item; `build` never leaves one of them blank
_EIGHTHS = " ▏▎▍▌▋▊▉█"


class ShownSummary(NamedTuple):
    """Totals of the impressions in a set of shards."""

    users: int  # users with at least one impression
    requests: int
    labels: dict[str, tuple[float, int]]  # head -> sum of the labels, and number of impressions that have one


class UserSummary(NamedTuple):
    """History lengths, range of times and one sample user of a folder of shards."""

    lengths: np.ndarray  # interactions of each user
    first_time: int | None  # seconds since 1970; None: no interactions
    last_time: int | None
    tied: int  # interactions with the same time as the user's previous interaction
    shown: "ShownSummary"
    sample: dict[str, Any] | None  # one user, as a row of USER_COLUMNS and profile columns; None: no interactions


class ItemSummary(NamedTuple):
    """How many items lack interactions, a text, or other fields."""

    without_interactions: int
    blank_texts: int  # items whose text is the title, as `build` writes it if one of the two is blank
    filled: dict[str, int]  # another text field -> number of items in which it is not blank


def inspect(folder: Path, console: Console) -> None:
    """Print counts, shares, histograms and samples of the shards in `folder`.

    Raises:
        ShardSetError: the folder is not a complete set of shards, or an item cannot be read.
    """
    index = ShardIndex.load(folder)
    catalogue = read_catalogue(folder)
    users = _summarise_users(folder, index.heads)
    popularity = catalogue["interactions"].to_numpy()
    items = _summarise_items(folder, catalogue, index.text_fields)
    console.print(Text(_headline(index), style="bold"))
    console.print(_facts(index, users, items))
    console.print(
        Columns(
            [
                Panel(_histogram(users.lengths, "users"), title="history length", title_align="left"),
                Panel(_histogram(popularity, "items"), title="interactions per item", title_align="left"),
            ]
        )
    )
    console.print(_sample_items(folder, catalogue))
    if users.sample is not None:
        console.print(_sample_user(catalogue, users.sample))


def facts(folder: Path) -> dict[str, Any]:
    """The numbers that `inspect` prints, without the samples, as a JSON object.

    Raises:
        ShardSetError: the folder is not a complete set of shards, or an item cannot be read.
    """
    index = ShardIndex.load(folder)
    users = _summarise_users(folder, index.heads)
    catalogue = read_catalogue(folder)
    popularity = catalogue["interactions"].to_numpy()
    items = _summarise_items(folder, catalogue, index.text_fields)
    fields = {"build", "counts", "text_fields", "heads", "context_columns", "user_columns"}
    return index.model_dump(mode="json", include=fields) | {
        "density": _density(index),
        "history_length": length_figures(users.lengths) | {"users_by_length": dict(log_bins(users.lengths))},
        "items_by_interactions": dict(log_bins(popularity)),
        "items_without_interactions": items.without_interactions,
        "blank_texts": items.blank_texts,  # items whose text is blank or equal to the title
        "filled": items.filled,
        "first_timestamp": users.first_time,  # a small number if the data has positions instead of times
        "last_timestamp": users.last_time,
        "tied_interactions": users.tied,
        "impressions": {
            "users": users.shown.users,
            "requests": users.shown.requests,
            "labels": {head: {"sum": ones, "observed": seen} for head, (ones, seen) in users.shown.labels.items()},
        },
        "shards": {kind: len(index.of_kind(kind)) for kind in ("items", "users")},
        "bytes": sum(file.bytes for file in index.files),
    }


def length_figures(lengths: np.ndarray) -> dict[str, float]:
    """Median, mean and maximum of the lengths of histories."""
    if not len(lengths):
        return {"median": 0.0, "mean": 0.0, "longest": 0}
    return {"median": float(np.median(lengths)), "mean": float(lengths.mean()), "longest": int(lengths.max())}


def log_bins(values: np.ndarray) -> list[tuple[str, int]]:
    """(label, count) of the bins 0, 1, 2-3, 4-7, 8-15, …, from the first to the last that holds a value."""
    if not len(values):
        return []
    exponents = np.where(values > 0, np.floor(np.log2(np.maximum(values, 1))) + 1, 0).astype(int)
    counts = np.bincount(exponents)
    labels = ["0", "1", *[f"{2**power:,}-{2 ** (power + 1) - 1:,}" for power in range(1, len(counts))]]
    return [(labels[bin_], int(count)) for bin_, count in enumerate(counts)][int(exponents.min()) :]


def draw_bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar of length `share` of `cells`, to an eighth of a cell; any share above 0 is visible."""
    eighths = max(round(share * cells * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _headline(index: ShardIndex) -> str:
    counts = index.counts
    return f"{counts.users:,} users, {counts.items:,} items, {counts.interactions:,} interactions"


def _facts(index: ShardIndex, users: UserSummary, items: ItemSummary) -> Table:
    counts = index.counts
    size = sum(file.bytes for file in index.files)
    options = ", ".join(f"{key}={value}" for key, value in index.build.items() if key != "source")
    rows = {
        "source": f"{index.build.get('source')} ({options})",
        "images": _items(counts.images, counts.items),
        "no interactions": _items(items.without_interactions, counts.items),
        "density": f"{_density(index):.3%}",
        "history": "median {median:,.0f}, mean {mean:,.1f}, longest {longest:,}".format(
            **length_figures(users.lengths)
        ),
        "dates": _times(users),
        "order": _order(users),
        "impressions": _impressions(index, users.shown),
        "blank texts": f"{_items(items.blank_texts, counts.items)}, whose text is blank or equal to the title",
        "text fields": ", ".join(_field(name, items.filled, counts.items) for name in index.text_fields),
        "profiles": ", ".join(index.user_columns) or "none",
        "cleaned of markup": ", ".join(f"{name} {n:,}" for name, n in counts.cleaned.items()) or "nothing",
        "dropped": ", ".join(f"{name} {rows:,}" for name, rows in counts.dropped.items()) or "nothing",
        "rejects": ", ".join(f"{reason} {n:,}" for reason, n in counts.rejects.items()) or "none",
        "shards": f"{len(index.of_kind('items')):,} of items, {len(index.of_kind('users')):,} of users; "
        f"{size / 1e6:,.1f} MB",
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _histogram(values: np.ndarray, unit: str) -> Table:
    bins = log_bins(values)
    most = max((count for _, count in bins), default=0)
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim")
    table.add_column(width=BAR_CELLS, style="cyan")
    table.add_column(justify="right")
    for label, count in bins:
        table.add_row(label, draw_bar(count / most), f"{count:,}")
    table.add_row("", "", Text(unit, style="dim"))
    return table


def _items(part: int, whole: int) -> str:
    return f"{part:,} items ({part / whole:.1%})"


def _field(name: str, filled: dict[str, int], items: int) -> str:
    return f"{name} ({filled[name] / items:.1%} filled)" if name in filled else name


def _sample_items(folder: Path, catalogue: pa.Table) -> Panel:
    """The first, middle and last item of the catalogue."""
    last = len(catalogue) - 1
    positions = sorted({last * step // (SAMPLE_ITEMS - 1) for step in range(SAMPLE_ITEMS)})
    lines = []
    rows = catalogue.take(positions)
    for row, content in zip(rows.to_pylist(), read_records(folder, rows), strict=True):
        others = [
            f"{name}: {shortened(value, 40)}"
            for name in content
            if name not in _OWN_NAMES and (value := _value(content, name))
        ]
        image = "no image" if row["image_offset"] is None else f"image {row['image_bytes'] / 1000:,.1f} kB"
        lines.append(
            Text.assemble(
                (f"{shortened(row['item_id'])}  ", "dim"),
                (shortened(row["title"]), "bold"),
                (f"  ×{row['interactions']:,}, {image}\n", "dim"),
                shortened(_value(content, "text"), 400),
                (f"\n{shortened(', '.join(others), 400)}" if others else "", "dim"),
            )
        )
    return Panel(Group(*lines), title="items", title_align="left")


def _sample_user(catalogue: pa.Table, user: dict[str, Any]) -> Panel:
    titles = catalogue["title"].take([item - 1 for item in user["items"][-SAMPLE_HISTORY:]]).to_pylist()
    lines = [
        Text.assemble((f"{_format_day(time)}  ", "dim"), shortened(title))
        for time, title in zip(user["timestamps"][-SAMPLE_HISTORY:], titles, strict=True)
    ]
    profile = [
        f"{name} {shortened(value)}" for name, value in user.items() if isinstance(value, str) and name != "user_id"
    ]
    caption = ", ".join([f"{shortened(user['user_id'])}: last {len(lines)} of {len(user['items']):,}", *profile])
    return Panel(Group(Text(caption, style="dim"), *lines), title="user", title_align="left")


def _summarise_items(folder: Path, catalogue: pa.Table, text_fields: list[str]) -> ItemSummary:
    blank_texts, filled = 0, {name: 0 for name in text_fields if name not in _OWN_NAMES}
    with step("items", len(catalogue)) as advance:
        for record in read_records(folder, catalogue):
            blank_texts += _value(record, "text") == _value(record, "title")
            for name in filled:
                filled[name] += bool(_value(record, name))
            advance(1)
    unused = int((catalogue["interactions"].to_numpy() == 0).sum())
    return ItemSummary(unused, blank_texts, filled)


def _value(record: dict[str, str | None], name: str) -> str:
    """The value of a field; empty if it is blank or missing."""
    return (record.get(name) or "").strip()


def _summarise_users(folder: Path, heads: list[str]) -> UserSummary:
    lengths, times, tied, sample, shown = [], [], 0, None, []
    for block in read_blocks(folder):
        lengths.append(block.lengths.to_numpy())
        shown.append(_summarise_shown(block.users, heads))
        seconds = block.users["timestamps"].flatten().to_numpy()
        owner = block.users["timestamps"].value_parent_indices().to_numpy()
        times += [int(seconds.min()), int(seconds.max())] if len(seconds) else []
        tied += int(((np.diff(seconds) == 0) & (np.diff(owner) == 0)).sum())
        if sample is None and len(seconds):
            enough = int(np.argmax(lengths[-1] >= SAMPLE_HISTORY)) or int(np.argmax(lengths[-1] > 0))
            [sample] = block.users.slice(enough, 1).to_pylist()
    first, last = min(times, default=None), max(times, default=None)
    return UserSummary(np.concatenate([_NO_LENGTHS, *lengths]), first, last, tied, _add(shown, heads), sample)


def _summarise_shown(users: pa.RecordBatch, heads: list[str]) -> ShownSummary:
    if not heads:
        return ShownSummary(0, 0, {})
    requests = users["shown_requests"]
    pairs = pa.table([requests.value_parent_indices(), requests.flatten()], ["user", "request"])
    labels = {head: users[LABEL_PREFIX + head].flatten().drop_null() for head in heads}
    return ShownSummary(
        users=int(pc.sum(pc.greater(requests.value_lengths(), 0)).as_py()),
        requests=len(pairs.group_by(["user", "request"]).aggregate([])),
        labels={head: (float(label.to_numpy().sum()), len(label)) for head, label in labels.items()},
    )


def _add(blocks: list[ShownSummary], heads: list[str]) -> ShownSummary:
    columns = {head: [block.labels[head] for block in blocks] for head in heads}
    return ShownSummary(
        users=sum(block.users for block in blocks),
        requests=sum(block.requests for block in blocks),
        labels={
            head: (sum(ones for ones, _ in column), sum(seen for _, seen in column)) for head, column in columns.items()
        },
    )


def _impressions(index: ShardIndex, shown: ShownSummary) -> str:
    if not index.heads:
        return "none"
    count = index.counts.impressions
    shares = [
        f"{head} {_share(ones, seen)}{'' if seen == count else f' of {seen:,} observed'}"
        for head, (ones, seen) in shown.labels.items()
    ]
    context = f"; context: {', '.join(index.context_columns)}" if index.context_columns else ""
    return f"{count:,} in {shown.requests:,} requests of {shown.users:,} users; {', '.join(shares)}{context}"


def _share(part: float, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else "0%"


def _density(index: ShardIndex) -> float:
    pairs = index.counts.users * index.counts.items
    return index.counts.interactions / pairs if pairs else 0.0


def _times(users: UserSummary) -> str:
    if users.first_time is None or users.last_time is None:
        return "no interactions"
    if users.last_time < _FIRST_YEAR:
        return f"none: positions {users.first_time:,} to {users.last_time:,} instead of times"
    return f"{_format_day(users.first_time)} to {_format_day(users.last_time)}"


def _order(users: UserSummary) -> str:
    followers = int(users.lengths.sum()) - int((users.lengths > 0).sum())
    if not users.tied:
        return "known: no two interactions of a user have the same time"
    share = f"{users.tied:,} interactions ({users.tied / followers:.0%} of those after another)"
    return f"{share} have the same time as the one before; they keep the order of the rows"


def _format_day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"
