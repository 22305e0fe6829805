"""Sets of shards that someone made bad on purpose: changed, with an index that agrees with the change."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit_index(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change `index.json` and let its checksum agree."""
    index = json.loads((folder / "index.json").read_text())
    edit(index)
    index.pop("checksum", None)
    checksum = hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()
    (folder / "index.json").write_text(json.dumps(index | {"checksum": checksum}))


def seal(folder: Path, name: str) -> None:
    """Make the index agree with the file's present bytes."""
    data = (folder / name).read_bytes()

    def edit(index: dict[str, Any]) -> None:
        [entry] = [file for file in index["files"] if file["name"] == name]
        entry["bytes"], entry["sha256"] = len(data), hashlib.sha256(data).hexdigest()

    edit_index(folder, edit)
