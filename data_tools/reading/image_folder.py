"""A folder of images."""

from pathlib import Path, PurePath
from typing import Self

from data_tools.rejects import Reason, Reject, RejectSink


class ImageFolder:
    """Finds the images that a data set names, and rejects names outside the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """The folder, or None if it does not exist, because the images are optional."""
        return cls(folder) if folder.is_dir() else None

    def locate(self, name: str, file: str, line: int, reject: RejectSink) -> Path | None:
        """Path of the image that this line of `file` names; None for "" or, with a reject, outside the folder."""
        if not name:
            return None
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            reject(Reject(file, line, Reason.BAD_IMAGE, f"{name!r} is outside {self._folder.name}/"))
            return None
        return self._folder / name
