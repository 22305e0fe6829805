"""A file system of 8 MiB to run out of."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SmallDisk:
    path: Path

    def mount(self, *options: str) -> bool:
        """False where mounting is not allowed."""
        options = options or ("-t", "tmpfs", "-o", "size=8m", "tmpfs")
        return subprocess.run(["mount", *options, self.path], capture_output=True).returncode == 0

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)

    def fill(self) -> Path:
        """A file that leaves no room for another byte."""
        filler = self.path / "filler"
        with filler.open("ab", buffering=0) as file:
            try:
                while file.write(bytes(2**16)):
                    pass
            except OSError:
                return filler
        raise AssertionError("the disk has no end")
