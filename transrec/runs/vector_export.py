"""Exports the vectors of a run to a folder; `vector_files` describes its files.

Designs considered for models with evidence, whose scores from counts are not inner products. Refusing such models: the
recommended configuration could not be searched at all. Appending the counts to the vectors: the counts depend on the
whole history and on all items. Chosen: the vectors leave evidence out, the manifest and the command say so, and the
candidates that an index finds are ranked by `recommend` or `serve`, which use the evidence.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from transrec import __version__, weights
from transrec.config import ConfigError
from transrec.files import writing
from transrec.runs import portable_tower, vector_index
from transrec.runs.encoded_catalogue import KnownVectors
from transrec.runs.histories import UserHistory
from transrec.runs.outputs import output_folder
from transrec.runs.portable_tower import SUFFIXES, ItemScorer, TowerKind, UserTower, random_histories, write_program
from transrec.runs.recommender import Recommender
from transrec.runs.vector_files import (
    INDEX_FILE,
    ITEMS_FILE,
    MANIFEST_FILE,
    SCORER,
    TOWER,
    USERS_FILE,
    VECTORS_FILE,
    Manifest,
    UserCounts,
    VectorFolder,
    file_sha256,
    model_sha256,
    read_manifest,
    vector_column,
    write_manifest,
    write_table,
)
from transrec.runs.vector_index import IndexKind

_USERS_AT_ONCE = 256


@dataclass(frozen=True)
class Wanted:
    """What an export of vectors holds besides the items."""

    index: IndexKind | None = None
    towers: Sequence[TowerKind] = ()

    def check(self) -> None:
        """
        Raises:
            ExtraError: a library that the export needs is not installed.
        """
        if self.index is not None:
            vector_index.faiss()
        portable_tower.check_installed(self.towers)

    def and_of(self, earlier: Manifest) -> "Wanted":
        """This together with what an earlier export holds, which an update must not lose."""
        towers = [kind for kind, suffix in SUFFIXES.items() if f"{TOWER}{suffix}" in earlier.files]
        return Wanted(self.index or earlier.index, [*dict.fromkeys([*self.towers, *towers])])


def export_vectors(
    recommender: Recommender,
    output: Path,
    wanted: Wanted,
    users: Sequence[UserHistory] | None = None,
    new_items: bool = False,
) -> Manifest:
    """Write the vectors of a run's items, and of `users`, to `output`.

    Args:
        new_items: `output` is an earlier export of this run, whose vectors are kept for items with the same content.
            What it holds besides is written again, except for the vectors of users, which stay as they are without
            `users`.

    Raises:
        BusyError: another process writes to `output`.
        ConfigError: `output` is not empty or, with `new_items`, from another model; or the model has no user vectors.
        ExtraError: a library is not installed.
        PortabilityError: a tower differs from the model.
    """
    wanted.check()
    recommender.check_vectors()
    before = None
    if new_items:
        recommender = recommender.with_known(earlier(recommender, output))
        before = read_manifest(output)
        wanted = wanted.and_of(before)
        wanted.check()
    remedy = "choose another --output, or add to it with --new-items"
    with output_folder(output, MANIFEST_FILE, None if before is None else before.files, remedy) as partial:
        errors = _write_items(recommender, wanted, partial)
        counts = None if before is None else before.users
        if users is not None:
            counts = _write_users(recommender, users, partial / USERS_FILE)
        elif counts is not None:
            with writing(partial):
                shutil.copy2(output / USERS_FILE, partial)
        manifest = _describe(recommender, wanted, errors, counts, partial)
        write_manifest(partial, manifest)
    return manifest


def earlier(recommender: Recommender, output: Path) -> KnownVectors:
    """The vectors of an earlier export of the same model.

    Raises:
        ConfigError: the model differs, or embeds ids, so that its vectors do not depend on content.
    """
    if recommender.embeds_ids:
        raise ConfigError(
            f"{recommender.folder} embeds item ids: it has no vectors for new items; leave out --new-items"
        )
    known = VectorFolder.read(output)
    if known.manifest.model_sha256 != model_sha256(recommender.export):
        raise ConfigError(
            f"{output} has the vectors of another model than {recommender.folder} has now: leave out --new-items and "
            "choose a new --output"
        )
    rows = {digest: row for row, digest in enumerate(known.content_sha256, start=1) if digest}
    vectors = np.concatenate([np.zeros_like(known.items[:1]), known.items])
    return KnownVectors(rows, torch.from_numpy(vectors))


def _write_items(recommender: Recommender, wanted: Wanted, folder: Path) -> dict[str, float]:
    """Write everything about the items; returns the errors of the towers."""
    ids, items = recommender.item_vectors()
    targets = recommender.target_vectors()
    same = items.shape == targets.shape and torch.equal(items, targets)
    tensors = {"items": items} if same else {"items": items, "targets": targets.contiguous()}
    weights.write(folder / VECTORS_FILE, tensors)
    columns = {
        "item_id": pa.array(ids),
        "title": pa.array(recommender.catalogue.titles),
        "vector": vector_column(targets.numpy()),
        "content_sha256": pa.array(recommender.content_hashes),
    }
    write_table(folder / ITEMS_FILE, columns)
    if wanted.index is not None:
        vector_index.write_index(vector_index.build_index(targets.numpy(), wanted.index), folder / INDEX_FILE)
    return _write_towers(recommender, wanted.towers, items, targets, folder) if wanted.towers else {}


def _write_towers(
    recommender: Recommender, kinds: Sequence[TowerKind], items: Tensor, targets: Tensor, folder: Path
) -> dict[str, float]:
    tower, errors = UserTower(recommender.model), {}
    histories = random_histories(items, recommender.max_length)
    with torch.no_grad():
        scored = [(tower(*history), targets[: 2 * len(history[0])]) for history in histories]
    for kind in kinds:
        suffix = SUFFIXES[kind]
        path = folder / f"{TOWER}{suffix}"
        errors[path.name] = write_program(tower, ("items", "mask"), histories, path)
        path = folder / f"{SCORER}{suffix}"
        errors[path.name] = write_program(ItemScorer(), ("users", "targets"), scored, path)
    return errors


def _write_users(recommender: Recommender, users: Sequence[UserHistory], path: Path) -> UserCounts:
    """Write the vectors of the users whose histories contain an item of the catalogue."""
    catalogue, names, found, unknown = recommender.catalogue, list[str](), list[Tensor](), 0
    for start in range(0, len(users), _USERS_AT_ONCE):
        some = users[start : start + _USERS_AT_ONCE]
        known = [catalogue.known(user.history) for user in some]
        unknown += sum(len(user.history) - len(items) for user, items in zip(some, known, strict=True))
        asked = [(user, items) for user, items in zip(some, known, strict=True) if items]
        if asked:
            names += [_name(user.user) for user, _ in asked]
            found.append(recommender.user_vectors([items for _, items in asked]))
    if not found:
        raise ConfigError("no user of the file has an item of the catalogue: check the ids, or name its --catalogue")
    write_table(path, {"user": pa.array(names), "vector": vector_column(torch.cat(found).numpy())})
    return UserCounts(written=len(names), left_out=len(users) - len(names), unknown_ids=unknown)


def _name(user: Any) -> str:
    """The name of a user as a string that Parquet can hold: as it is if it is such a string, otherwise as JSON."""
    if not isinstance(user, str):
        return json.dumps(user)
    try:
        user.encode("utf-8")
    except UnicodeEncodeError:  # an unpaired surrogate
        return json.dumps(user)
    return user


def _describe(
    recommender: Recommender, wanted: Wanted, errors: dict[str, float], users: UserCounts | None, folder: Path
) -> Manifest:
    shards = recommender.catalogue.folder
    width, target_width = recommender.item_vectors().vectors.shape[1], recommender.target_vectors().shape[1]
    return Manifest(
        transrec_version=__version__,
        run=recommender.name,
        model_sha256=model_sha256(recommender.export),
        shards_sha256=shards.index_sha256,
        item_ids_sha256=shards.index.item_ids_sha256,
        items=shards.index.counts.items,
        width=width,
        target_width=target_width,
        max_length=recommender.max_length,
        leaves_out=recommender.evidence_names,
        encoded_items=recommender.encoded,
        index=wanted.index,
        largest_error=errors,
        users=users,
        files={path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_FILE},
    )
