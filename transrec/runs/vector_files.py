"""Vectors of a run for other programs: a folder whose manifest ties vectors, user tower and catalogue together.

    manifest.json        model, catalogue and the SHA-256 of every other file; written last
    items.parquet        item_id, title, vector (W), content_sha256; one row per item
    items.safetensors    `items` (N, D), which the user tower reads, and `targets` (N, W) where these differ
    items.faiss          nearest-neighbour index of the targets; row i is item i of items.parquet
    users.parquet        user, vector (W)
    user_tower.onnx      (or .pt2) items (B, L, D) float32 and mask (B, L) bool, left-padded -> users (B, W)
    scorer.onnx          (or .pt2) users (B, W) and targets (N, W) -> scores (B, N)

Shape letters: B users, L positions, N items, D width of item vectors, W width of targets.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from transrec.config import Config, ConfigError, validate
from transrec.extras import needed
from transrec.files import read_json, write_text, writing
from transrec.runs.catalogue import check_ids, check_top
from transrec.runs.vector_index import nearest, read_index

Floats = NDArray[np.float32]
FORMAT = 1
MANIFEST_FILE, ITEMS_FILE, VECTORS_FILE = "manifest.json", "items.parquet", "items.safetensors"
INDEX_FILE, USERS_FILE = "items.faiss", "users.parquet"
TOWER, SCORER = "user_tower", "scorer"


class UserCounts(Config):
    """Counts of the users in a file of histories, and of their unknown ids."""

    written: int
    left_out: int  # without an item of the catalogue
    unknown_ids: int


class Manifest(Config):
    """The contents of `manifest.json`."""

    format: Literal[1] = 1
    transrec_version: str
    run: str  # name of its folder
    model_sha256: str  # of the run's export
    shards_sha256: str  # of the index.json of the catalogue's shards
    item_ids_sha256: str
    items: int
    width: int  # of the vectors that the user tower reads
    target_width: int
    max_length: int  # of a history
    leaves_out: list[str]  # evidence that the model adds to the products of these vectors
    encoded_items: int  # excluding those whose vectors were taken from an earlier export
    index: Literal["flat", "hnsw"] | None
    largest_error: dict[str, float]  # of each tower and scorer file, relative to the live model
    users: UserCounts | None = None
    files: dict[str, str]  # name -> SHA-256


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_sha256(export: Path) -> str:
    """Hash of the files of a run's export, except its README."""
    digest = hashlib.sha256()
    for path in sorted(export.rglob("*")):
        if path.is_file() and path.suffix != ".md":
            digest.update(f"{path.relative_to(export).as_posix()}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def vector_column(vectors: Floats) -> pa.FixedSizeListArray:
    """Vectors (N, W) as a column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).ravel()), vectors.shape[1])


def write_table(path: Path, columns: dict[str, pa.Array]) -> None:
    """Write a Parquet file."""
    with writing(path):
        pq.write_table(pa.table(columns), path)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder."""
    write_text(folder / MANIFEST_FILE, json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n")


@dataclass(frozen=True)
class VectorFolder:
    """Exported vectors, all of which belong to one model and one catalogue.

    >>> folder = VectorFolder.read("exported/vectors")
    >>> users = folder.users([["i23", "i7"]])  # (1, W); needs user_tower.onnx
    >>> folder.nearest(users, top=10, left_out=[["i23", "i7"]])
    [[{'item_id': 'i5', 'title': …, 'score': …}, …]]
    """

    folder: Path
    manifest: Manifest
    ids: list[str]
    titles: list[str]
    content_sha256: list[str]
    items: Floats  # (N, D)
    targets: Floats  # (N, W)

    @classmethod
    def read(cls, folder: Path | str) -> "VectorFolder":
        """
        Raises:
            ConfigError: the folder is not such an export, or a file in it is missing, damaged or from another export.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        for name, expected in manifest.files.items():
            _check_file(folder / name, expected)
        try:
            table = pq.read_table(folder / ITEMS_FILE, columns=["item_id", "title", "content_sha256"]).to_pydict()
            tensors = load_file(folder / VECTORS_FILE)
            items = tensors["items"]
            columns = table["item_id"], table["title"], table["content_sha256"]
        except (OSError, KeyError, pa.ArrowException, SafetensorError) as error:
            raise ConfigError(f"cannot read the vectors in {folder} ({error}): export them again") from None
        return cls(folder, manifest, *columns, items, tensors.get("targets", items))

    def users(self, histories: Sequence[Sequence[str]]) -> Floats:
        """User vectors (B, W) from `user_tower.onnx`.

        Args:
            histories: item ids of each user, oldest first.

        Raises:
            ConfigError: the folder has no such file, an id is unknown, or a history is empty.
            ExtraError: ONNX Runtime is not installed.
        """
        path = self.folder / f"{TOWER}.onnx"
        if path.name not in self.manifest.files:
            raise ConfigError(f"{self.folder} has no {path.name}: export it with --tower onnx")
        (runtime,) = needed("onnx", "a user tower", "onnxruntime")
        items, mask = self.inputs(histories)
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found: Floats = session.run(None, {"items": items, "mask": mask})[0]
        return found

    def inputs(self, histories: Sequence[Sequence[str]]) -> tuple[Floats, NDArray[np.bool_]]:
        """The inputs of the user tower: item vectors (B, L, D), left-padded with zeros, and the mask (B, L).

        Raises:
            ConfigError: an id is unknown, or a history is empty.
        """
        length = self.manifest.max_length
        items = np.zeros((len(histories), length, self.items.shape[1]), np.float32)
        mask = np.zeros((len(histories), length), np.bool_)
        for row, history in enumerate(histories):
            rows = self._rows(history)[-length:]
            if not rows:
                raise ConfigError("a history needs at least one item")
            items[row, -len(rows) :], mask[row, -len(rows) :] = self.items[rows], True
        return items, mask

    def nearest(
        self, users: Floats, top: int = 10, left_out: Sequence[Sequence[str]] | None = None
    ) -> list[list[dict[str, str | float]]]:
        """The best items for each user vector (B, W), found with the index if there is one, otherwise among all items.

        With a flat index, or none, these are the items that `recommend` returns for a model without evidence.

        Args:
            left_out: for each user, ids of items that are not returned, such as those of the history.

        Returns:
            `{"item_id", "title", "score"}` for each item, best first.

        Raises:
            ConfigError: an id is unknown, or an argument has the wrong shape.
            ExtraError: there is an index, and FAISS is not installed.
        """
        check_top(top)
        self._check(users, left_out)
        index = read_index(self.folder / INDEX_FILE) if self.manifest.index else None
        excluded = [self._rows(ids) for ids in left_out or [[]] * len(users)]
        return [
            [
                {"item_id": self.ids[row], "title": self.titles[row], "score": round(float(score), 6)}
                for row, score in found
            ]
            for found in nearest(self.targets, users, top, excluded, index)
        ]

    def _check(self, users: Floats, left_out: Sequence[Sequence[str]] | None) -> None:
        width = self.targets.shape[1]
        if np.ndim(users) != 2 or np.shape(users)[1] != width:
            raise ConfigError(f"users: expected vectors of shape (users, {width}), found shape {np.shape(users)}")
        if not np.isfinite(users).all():
            raise ConfigError("users: expected finite numbers, found NaN or infinity")
        if isinstance(left_out, str) or (left_out and len(left_out) != len(users)):
            raise ConfigError(f"left_out: expected a list of item ids for each of {len(users):,} users")
        for ids in left_out or ():
            check_ids(ids)

    def _rows(self, ids: Sequence[str]) -> list[int]:
        places = self._places
        if unknown := [item_id for item_id in ids if item_id not in places]:
            raise ConfigError(f"unknown item ids: {', '.join(unknown[:5])}; {self.folder} has none of them")
        return [places[item_id] for item_id in ids]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.ids)}


def load_vectors(folder: Path | str) -> VectorFolder:
    """Read vectors that `transrec export --vectors` wrote.

        >>> folder = transrec.load_vectors("exported/vectors")

    Raises:
        ConfigError: the folder is not such an export, or a file in it is missing, damaged or from another export.
    """
    return VectorFolder.read(folder)


def read_manifest(folder: Path) -> Manifest:
    """
    Raises:
        ConfigError: the manifest is missing, damaged, or not one that this version reads.
    """
    path = folder / MANIFEST_FILE
    try:
        values = read_json(path)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path} ({error.strerror}): write the folder with "
            f"`transrec export --vectors --output {folder}`"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} is damaged ({error}): export the vectors again") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ConfigError(f"{path} has a format that this version does not read: export the vectors again")
    try:
        manifest = validate(Manifest, values)
    except ConfigError as error:
        raise ConfigError(f"{path} is not the manifest of exported vectors: {error}") from None
    if others := {name for name in manifest.files if Path(name).name != name}:
        raise ConfigError(f"{path} names files outside its folder, such as {min(others)!r}: export the vectors again")
    return manifest


def _check_file(path: Path, expected: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}): export the vectors again") from None
    if found != expected:
        raise ConfigError(
            f"{path} does not belong to the {MANIFEST_FILE} beside it, because it is damaged or from another export: "
            "export the vectors again"
        )
