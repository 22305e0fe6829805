"""Time of making a batch of training windows, without content, in milliseconds, and a hash of the batches.

    python tests/benchmarks/train_stream.py --folder /tmp/train_stream

Builds a synthetic set unless it exists (100,000 users of 20 interactions, 20,000 items), and makes batches of 256
windows with one negative per position, ahead of time, as a loader process would. Equal hashes mean equal batches.
"""

import argparse
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_tools.build import build
from data_tools.sources.synthetic import SyntheticSource
from transrec.data.batch import Sampling, SequenceBatch
from transrec.data.content.item_store import ItemStore
from transrec.data.examples import DataConfig
from transrec.data.train_stream import TrainStream

USERS, ITEMS, INTERACTIONS = 100_000, 20_000, 2_000_000
MAX_LENGTH, BATCH, STEPS = 20, 256, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the shards")
    folder = parser.parse_args().folder
    if not folder.exists():
        build(SyntheticSource(USERS, ITEMS, INTERACTIONS), "synthetic", folder)
    for split in ("leave_one_out", "temporal"):
        config = DataConfig(path=folder, split={"name": split})  # type: ignore[arg-type]
        interactions = config.scan(MAX_LENGTH)
        store = ItemStore(interactions.folder, {}, Path())
        stream = TrainStream(interactions, interactions.collation(store, Sampling(negatives=1), 0), BATCH, seed=0)
        stream[0]  # the line of the epoch is laid out
        began = time.process_time()
        batches = [stream[step][0] for step in range(1, 1 + STEPS)]
        milliseconds = (time.process_time() - began) / STEPS * 1e3
        print(f"{split}: {milliseconds:.1f} ms a batch, {fingerprint(batches)}")


def fingerprint(batches: list[SequenceBatch]) -> str:
    return hashlib.sha256(b"".join(part for batch in batches for part in _bytes(batch))).hexdigest()[:16]


def _bytes(batch: SequenceBatch) -> Iterator[bytes]:
    items = batch.content.items
    for rows, mask in ((batch.inputs, batch.input_mask), (batch.targets, batch.target_mask)):
        yield np.where(mask, items[rows], 0).tobytes()
    yield items[batch.negatives[batch.target_mask]].numpy().tobytes()


if __name__ == "__main__":
    main()
