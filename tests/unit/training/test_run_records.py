import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from small_disk import SmallDisk
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from transrec.files import LinesError, StorageError
from transrec.training.records import Records, flatten, last_batch, validations

OpenRecords = Callable[..., Records]


@pytest.fixture
def open_records(tmp_path: Path) -> Iterator[OpenRecords]:
    opened = []

    def open_records(start_step: int = 0, total_steps: int = 10) -> Records:
        opened.append(Records(tmp_path, start_step, total_steps))
        return opened[-1]

    yield open_records
    for records in opened:
        records.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.tensor_proto.float_val[0]) for event in events(folder).Tensors(tag)]


def test_records_are_lines_of_json(open_records: OpenRecords, tmp_path: Path) -> None:
    records = open_records()
    records.record("step", 1, {"loss": 0.5, "batch": "00ff"})
    records.record("valid", 2, {"HR@10": 0.25})
    records.close()
    assert lines(tmp_path) == [
        {"kind": "step", "step": 1, "loss": 0.5, "batch": "00ff"},
        {"kind": "valid", "step": 2, "HR@10": 0.25},
    ]


def test_records_are_on_disk_when_the_bar_moves(open_records: OpenRecords, tmp_path: Path) -> None:
    records = open_records()
    records.record("step", 1, {"loss": 0.5})
    records.advance(1, 0.5, 100.0, 1.0)
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize(
    "torn", ["", '{"kind": "st', '{"kind": "step", "step": 4}', '{"kind": "step", "step": 2, "inner": {}'], ids=len
)
def test_resuming_drops_later_lines_and_a_half_written_one(
    open_records: OpenRecords, tmp_path: Path, torn: str
) -> None:
    whole = "".join(json.dumps({"kind": "step", "step": step}) + "\n" for step in (1, 2, 3, 4))
    (tmp_path / "metrics.jsonl").write_text(whole + torn)
    records = open_records(start_step=2)
    records.record("step", 3, {"again": True})
    records.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    assert lines(tmp_path)[-1]["again"]


def test_a_new_run_keeps_nothing_of_an_attempt_without_a_checkpoint(open_records: OpenRecords, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"kind": "step", "step": 1}\n')
    open_records().close()
    assert lines(tmp_path) == []


def test_scalars_are_readable_by_tensorboard(open_records: OpenRecords, tmp_path: Path) -> None:
    records = open_records()
    records.scalars(1, {"train/loss": 2.0})
    records.scalars(2, {"train/loss": 1.5, "perf/padding": 0.25})
    records.close()
    assert scalars(tmp_path, "train/loss") == [(1, 2.0), (2, 1.5)]
    assert scalars(tmp_path, "perf/padding") == [(2, 0.25)]


def test_resuming_purges_later_scalars(open_records: OpenRecords, tmp_path: Path) -> None:
    first = open_records()
    for step in (1, 2, 3, 4):
        first.scalars(step, {"train/loss": float(step)})
    first.close()
    second = open_records(start_step=2)
    second.scalars(3, {"train/loss": 30.0})
    second.close()
    assert scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_starting_over_purges_all_scalars(open_records: OpenRecords, tmp_path: Path) -> None:
    """Killed before its first checkpoint, and started again: metrics.jsonl begins anew, TensorBoard must too."""
    first = open_records()
    first.scalars(5, {"train/loss": 5.0})
    first.close()
    second = open_records()
    second.scalars(1, {"train/loss": 1.0})
    second.close()
    assert scalars(tmp_path, "train/loss") == [(1, 1.0)]


def test_off_a_terminal_a_line_now_and_then(
    open_records: OpenRecords, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("transrec.training.records.time.monotonic", lambda: clock[0])
    records = open_records(start_step=0, total_steps=10)
    for step in range(1, 6):
        clock[0] += 20
        records.advance(step, 0.5, 128.0, seconds_a_step=15.0)
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert shown == [
        "step 1/10  loss 0.5000  128 users/s  about 2.2 min left, plus validations and test",
        "step 3/10  loss 0.5000  128 users/s  about 1.8 min left, plus validations and test",
        "step 5/10  loss 0.5000  128 users/s  about 1.2 min left, plus validations and test",
    ]


def test_flatten_joins_keys_with_dots() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_a_metric_that_is_no_number_is_still_json(open_records: OpenRecords, tmp_path: Path) -> None:
    records = open_records()
    records.record("valid", 1, {"AUC": math.nan})
    records.close()
    json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("file", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_one_sentence_that_names_the_file(small_disk: SmallDisk, file: str) -> None:
    """TensorBoard writes in a thread, whose traceback nobody asked for."""
    records = Records(small_disk.path, 0, 10)
    records.scalars(0, {"train/loss": 1.0})
    records.flush()
    small_disk.fill()

    def write() -> None:
        for step in range(1, 2000):
            if file == "metrics.jsonl":
                records.record("step", step, {"loss": 0.5})
            else:
                records.scalars(step, {"train/loss": 0.5})
        records.flush()

    with pytest.raises(
        StorageError, match=f"cannot write {small_disk.path}/{file}: No space left on device. Make room"
    ):
        write()
    with suppress(StorageError):
        records.close()


@pytest.mark.parametrize(
    "line", [b'{"kind": "step", "step": \xff}', b"[1]", b'{"kind": "step"}', b"{}", b'{"kind": 1, "step": 2}']
)
def test_a_damaged_record_is_named(open_records: OpenRecords, tmp_path: Path, line: bytes) -> None:
    records = open_records()
    records.record("step", 1, {"loss": 0.5, "batch": "00ff"})
    records.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    for read in (last_batch, validations, lambda folder: Records(folder, 1, 10)):
        with pytest.raises(LinesError, match=rf"{path}, line 2: .*\. Remove that line, then start"):
            read(tmp_path)


def test_an_unfinished_last_record_is_left_out(open_records: OpenRecords, tmp_path: Path) -> None:
    records = open_records()
    records.record("step", 1, {"loss": 0.5, "batch": "00ff\u2028"})
    records.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "step", "step": 2, "los')
    assert last_batch(tmp_path) == (1, "00ff\u2028")
