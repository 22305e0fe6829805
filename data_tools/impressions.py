"""Impressions: what users were shown, and whether they clicked."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_tools.histories import Histories
from data_tools.stage import Fragments
from transrec.data.shards.schema import CONTEXT_PREFIX, LABEL_PREFIX


def heads_of(impressions: Fragments) -> list[str]:
    """Names of what was observed of each impression: click, …"""
    return _without_prefix(impressions, LABEL_PREFIX)


def context_of(impressions: Fragments) -> list[str]:
    """Names of the context columns."""
    return _without_prefix(impressions, CONTEXT_PREFIX)


def group_impressions(table: pa.Table) -> Histories:
    """Group a table of staged impressions; `request_id` becomes `request`, a number within the user from 0, in order
    of time. Without an id, what a user was shown at the same time is one request."""
    shown = Histories.group(table)
    place = shown.rows.schema.get_field_index("request_id")
    numbers = pa.array(_number_requests(shown), pa.int32())
    return replace(shown, rows=shown.rows.set_column(place, "request", numbers))


def _number_requests(shown: Histories) -> NDArray[np.int64]:
    """(rows,) number of each row's request within its user, in the order in which requests begin."""
    owner, codes = shown.owners, shown.rows["request_id"].dictionary_encode().indices
    unnamed = codes.is_null().to_numpy(zero_copy_only=False)
    keys = (np.where(unnamed, shown.rows["timestamp"].to_numpy(), 0), codes.fill_null(-1).to_numpy(), owner)
    together = np.lexsort(keys)  # stable: the first row of a request comes first
    begins = np.ones(len(owner), bool)
    begins[1:] = np.any([np.diff(key[together]) != 0 for key in keys], axis=0)
    rank = np.empty(begins.sum(), np.int64)
    rank[np.argsort(together[begins])] = np.arange(len(rank))
    request = np.empty(len(owner), np.int64)
    request[together] = rank[np.cumsum(begins) - 1]
    return request - request[shown.starts[owner]]


def _without_prefix(impressions: Fragments, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in impressions.schema.names if name.startswith(prefix)]
