"""Kinds of damage to a file, by name, each with the function that does it."""

import os
from collections.abc import Callable
from pathlib import Path


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # tensors may be mapped from it
    path.write_bytes(content)


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_unlinked(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: _replace(path, b""),
    "half": lambda path: _replace(path, path.read_bytes()[: path.stat().st_size // 2]),
    "no text": lambda path: _replace(path, os.urandom(300)),
    "a list": lambda path: _replace(path, b"[]\n"),
    "a mapping": lambda path: _replace(path, b"{}\n"),
    "deep": lambda path: _replace(path, b"[" * 100_000),
    "a login page": lambda path: _replace(path, b"<!doctype html>\n<title>Log in</title>\n"),
    "a pointer": lambda path: _replace(path, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"),
    "a folder": _make_folder,
    "a broken link": _make_unlinked,
}
