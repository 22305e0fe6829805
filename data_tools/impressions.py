"""Impressions: what users were shown, and whether they clicked."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_tools.histories import Histories
from data_tools.stage import Fragments
from transrec.data.shards.schema import CONTEXT_PREFIX, LABEL_PREFIX

APART = " (impressions)"  # suffix of the names under which dropped impressions are counted
_UNNAMED = -1  # code of a row without a request id


def heads_of(impressions: Fragments) -> list[str]:
    """Names of the observed labels of impressions: click, …"""
    return _without_prefix(impressions, LABEL_PREFIX)


def context_of(impressions: Fragments) -> list[str]:
    """Names of the context columns."""
    return _without_prefix(impressions, CONTEXT_PREFIX)


def count_apart(dropped: Counter[str]) -> Counter[str]:
    """Numbers of dropped impressions, under other names than those of dropped interactions."""
    return Counter({name + APART: rows for name, rows in dropped.items()})


def group_impressions(table: pa.Table) -> Histories:
    """Group a table of staged impressions; `request_id` becomes `request`, a number within the user from 0, in order
    of time. Without an id, what a user was shown at the same time is one request."""
    codes = table["request_id"].combine_chunks().dictionary_encode().indices.fill_null(_UNNAMED)
    shown = Histories.group(table.set_column(table.schema.get_field_index("request_id"), "request", codes))
    place = shown.rows.schema.get_field_index("request")
    return replace(shown, rows=shown.rows.set_column(place, "request", pa.array(_number_requests(shown), pa.int32())))


def _number_requests(shown: Histories) -> NDArray[np.int64]:
    """(rows,) number of each row's request within its user, in the order in which requests begin; `request` has the
    codes of their ids."""
    owner, code, time = shown.owners, shown.rows["request"].to_numpy(), shown.rows["timestamp"].to_numpy()
    keys = (np.where(code == _UNNAMED, time, 0), code, owner)
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
