"""Opening the item store of a shard set in all processes of a run, which agree on its unreadable items."""

from functools import partial

from transrec.data.content.item_store import ItemStore, Wanted, unchecked
from transrec.data.examples.histories import HistoriesConfig
from transrec.data.peers import Peers
from transrec.data.progress import tracked
from transrec.data.shards.bad_samples import BadSample, check_share, find_bad
from transrec.data.shards.shard_folder import ShardFolder


def open_store(folder: ShardFolder, wanted: Wanted, config: HistoriesConfig, peers: Peers) -> ItemStore:
    """The item store of `folder`, which the processes of a node fill together.

    Raises:
        ShardSetError: more items are unreadable than may be left out.
    """
    skipped: dict[int, BadSample] = {}
    if config.on_bad_sample == "skip":
        for samples, numbers in unchecked(folder, wanted, config.cache):
            mine = tracked("checking", numbers) if peers.local_rank == 0 else ()
            skipped |= find_bad(samples, mine, peers.union)
        check_share(skipped, len(skipped), folder.index.counts.items, config.most_bad_share, "items")
    return peers.together("fill the item store", partial(ItemStore, folder, wanted, config.cache, skipped))
