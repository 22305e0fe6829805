"""KuaiRand (https://kuairand.com), the folder `data` of KuaiRand-Pure, -1K or -27K.

log_standard_….csv, log_random_….csv   user_id, video_id, time_ms, is_click and other feedback, is_rand, …
video_features_basic_….csv             video_id, author_id, video_type, music_type, tag, …
user_features_….csv                    user_id and columns of the user

What the format leaves open: a row of a log is a video that was shown to a user: an impression, with the heads click,
long_view, like, follow, comment, forward and hate, and as context the tab and whether the video was chosen at random
(`is_rand`). It is also an interaction if the chosen feedback is 1. By default only the standard logs are read, because
the videos of the random logs do not depend on the history (`--logs random` reads only these, `--logs both` all). The
data has no texts: an item's title is `video <id>`, and its text is its type and tags, which are numbers.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from data_tools.reading.csv_files import read_csv, require_csv
from data_tools.reading.input_files import visible_files
from data_tools.reading.item_text import compose_text
from data_tools.reading.text_blocks import count_lines
from data_tools.reading.typed_columns import iterate_rows, to_flags, to_impressions, to_interactions, to_strings
from data_tools.rejects import RejectSink, ignore
from data_tools.source import Batch, Item, SourceError, Totals

FEEDBACK = ("is_click", "long_view", "is_like", "is_follow", "is_comment", "is_forward")
_STANDARD, _RANDOM = "log_standard_*.csv", "log_random_*.csv"
LOGS = {"standard": (_STANDARD,), "random": (_RANDOM,), "both": (_STANDARD, _RANDOM)}
_LABELS = {
    "is_click": "label_click",
    "long_view": "label_long_view",
    "is_like": "label_like",
    "is_follow": "label_follow",
    "is_comment": "label_comment",
    "is_forward": "label_forward",
    "is_hate": "label_hate",
}
_CONTEXT = ("tab", "is_rand")
_FIELDS = ("author_id", "video_type", "music_type", "tag")


class KuaiRandSource:
    """Reads the folder.

    Raises:
        SourceError: a file or a column is missing.
    """

    def __init__(self, folder: Path, feedback: str, logs: str) -> None:
        self._feedback, self._chosen = feedback, logs
        wanted = {"user_id", "video_id", "time_ms", *_LABELS, *_CONTEXT}
        self._logs = [require_csv(path, wanted) for pattern in LOGS[logs] for path in _find(folder, pattern)]
        basic = _find(folder, "video_features_basic_*.csv")
        self._videos = [require_csv(path, {"video_id", *_FIELDS}) for path in basic]
        self._users = [require_csv(path, {"user_id"}) for path in _find(folder, "user_features_*.csv")]

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        text = "folder of log_standard_*.csv, log_random_*.csv, video_features_basic_*.csv and user_features_*.csv"
        parser.add_argument("--input", type=Path, required=True, metavar="DIR", help=text)
        parser.add_argument(
            "--feedback", choices=FEEDBACK, default="is_click", help="feedback that counts as an interaction"
        )
        parser.add_argument("--logs", choices=list(LOGS), default="standard", help="which logs to read")

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        return cls(arguments.input, arguments.feedback, arguments.logs)

    def options(self) -> dict[str, Any]:
        return {"feedback": self._feedback, "logs": self._chosen}

    def totals(self) -> Totals:
        shown = count_lines(self._logs)
        return Totals(count_lines(self._videos), shown, shown)

    def items(self, reject: RejectSink) -> Iterator[Item]:
        for path in self._videos:
            for raw in read_csv(path, reject):
                batch = to_strings(_rename(raw), "item_id", reject)
                for line, row in iterate_rows(batch):
                    kind, tags = row["video_type"], row["tag"].replace(",", ", ")
                    title = f"video {row['item_id']}"
                    text = compose_text([title, kind and f"type {kind}", tags and f"tags {tags}"])
                    yield Item(
                        batch.file, line, row["item_id"], title, text, {name: row[name] for name in _FIELDS}, image=None
                    )

    def interactions(self, reject: RejectSink) -> Iterator[Batch]:
        for path in self._logs:
            for raw in read_csv(path, reject):
                positive = to_flags(raw.rows[self._feedback])
                shown = Batch(raw.file, raw.lines.filter(positive), raw.rows.filter(positive))
                yield to_interactions(_rename(shown), ignore, "ms")  # `impressions`, which reads all rows, rejects

    def impressions(self, reject: RejectSink) -> Iterator[Batch]:
        for path in self._logs:
            for raw in read_csv(path, ignore):  # `interactions` rejects what is malformed
                rows = raw.rows.select(["user_id", "video_id", "time_ms", *_LABELS, *_CONTEXT])
                yield to_impressions(_rename(raw._replace(rows=rows)), reject, "ms")

    def users(self, reject: RejectSink) -> Iterator[Batch]:
        for path in self._users:
            for batch in read_csv(path, reject):
                yield to_strings(batch, "user_id", reject)


def _find(folder: Path, pattern: str) -> list[Path]:
    if not (found := visible_files(folder, pattern)):
        raise SourceError(f"{folder} has no {pattern}")
    return found


def _rename(batch: Batch) -> Batch:
    names = {"video_id": "item_id", "time_ms": "timestamp", **_LABELS}
    return batch._replace(rows=batch.rows.rename_columns([names.get(name, name) for name in batch.rows.schema.names]))
