"""Files at a URL: read as a stream, checked on arrival, and requested again while the server recovers.

Designs considered. webdataset's own readers run a shell and curl (`pipe:`). fsspec for everything adds a second,
asynchronous HTTP client. Chosen: httpx for http and https, fsspec for every other scheme. No URL ever reaches a shell.
Credentials in a URL (`https://user:password@host`) are used but never shown.
"""

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote, urlsplit

import fsspec
import httpx2
from pydantic import BeforeValidator

from transrec.errors import TransRecError

T = TypeVar("T")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
# An `@` may only end user and password; `::` is refused because fsspec chains file systems with it.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://(?!.*::)([\w.~%:+=,!-]*@)?[\w.~/%:+=,!-]+")
_CREDENTIALS = re.compile(r"^([^:]*:(?://)?).*@")
_HTTP = ("http", "https")
_PART = 2**20  # bytes
_TIMEOUT = httpx2.Timeout(30, connect=10)  # seconds, for each read
_TRIES = 8
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 10.0  # seconds; doubled each time, some 25 s in all
_TEMPORARY = {408, 425, 429}  # and every status from 500 on
_jitter = random.Random()  # separate generator: waiting must not change the random numbers of training


class UrlError(TransRecError, ValueError):
    """Text that looks like a URL but cannot be used as one."""


class RemoteError(TransRecError):
    """A file that could not be fetched from its URL; the message gives the reason and the number of tries."""


class _Temporary(Exception):
    """A failure that is worth another try."""


def parse_place(text: str | Path) -> Path | str:
    """The place of a set of shards, as a user writes it: a local `Path`, or a URL as a string.

    Raises:
        UrlError: the text begins like a URL but its scheme is unknown, or it has characters that no URL has.
    """
    if not isinstance(text, str | Path):  # a configuration may hold anything
        raise UrlError(f"expected a folder or a URL, found {text!r}")
    scheme = _SCHEME.match(text) if isinstance(text, str) else None
    if scheme is None:
        try:
            return Path(text).expanduser()
        except RuntimeError:
            raise UrlError(f"{text}: the home folder is not known; write the path in full, or set HOME") from None
    name = scheme[1].lower()
    if name not in (*_HTTP, *fsspec.available_protocols()):
        known = "http://, https://, s3:// or another scheme of fsspec"
        raise UrlError(f"{public(str(text))!r}: unknown scheme `{name}:`; write a folder, or a URL with {known}")
    if not _URL.fullmatch(str(text)):
        raise UrlError(
            f"{public(str(text))!r} is not a plain URL of a folder: write it as {name}://host/folder, without a query, "
            "with special characters percent-encoded"
        )
    return str(text).rstrip("/")


Place = Annotated[Path | str, BeforeValidator(parse_place)]


def public(url: str) -> str:
    """The URL without user and password."""
    return _CREDENTIALS.sub(r"\1", url)


def read(url: str, most_bytes: int) -> bytes:
    """The content of a small file.

    Raises:
        RemoteError: the file cannot be fetched, or is larger than `most_bytes`.
    """

    def attempt() -> bytes:
        data = bytearray()
        for part in _stream(url):
            data += part
            if len(data) > most_bytes:
                raise RemoteError(f"{public(url)} is larger than {most_bytes} bytes, so it is not the expected file")
        return bytes(data)

    return _retry(url, attempt)


def fetch(url: str, target: Path, size: int, sha256: str) -> None:
    """Overwrite `target`, a file of `size` bytes, with the content at `url`, which must have this size and hash.

    Raises:
        RemoteError: the file cannot be fetched, or every try receives other content.
    """

    def attempt() -> None:
        digest, arrived = hashlib.sha256(), 0
        with target.open("r+b") as file:
            for part in _stream(url):
                arrived += len(part)
                if arrived > size:
                    raise _Temporary(f"more than the expected {size} bytes arrived")
                digest.update(part)
                file.write(part)
        if arrived < size:
            raise _Temporary(f"only {arrived} of its {size} bytes arrived")
        if digest.hexdigest() != sha256:
            raise _Temporary("the received file's SHA-256 differs from index.json")

    _retry(url, attempt)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        RemoteError: a package is missing, or the URL is incomplete.
    """
    try:
        found: tuple[Any, str] = fsspec.url_to_fs(url)
        return found
    except ImportError as error:
        extra = "pip install 'transrec[s3]'" if url.startswith("s3:") else str(error)
        raise RemoteError(f"{public(url)} needs a package that is not installed: {extra}") from None
    except Exception as error:  # each file system raises its own errors
        raise _refusal(url, error) from None


def _retry(url: str, attempt: Callable[[], T]) -> T:
    for done in range(_TRIES):
        if done:
            time.sleep(min(_FIRST_WAIT * 2 ** (done - 1), _LONGEST_WAIT) * _jitter.uniform(0.75, 1.25))
        try:
            return attempt()
        except _Temporary as error:
            reason = str(error)
    raise RemoteError(
        f"{public(url)}: {reason} ({_TRIES} tries); check that the server is up and has the whole set, then start again"
    )


def _stream(url: str) -> Iterator[bytes]:
    return _stream_http(url) if urlsplit(url).scheme.lower() in _HTTP else _stream_fsspec(url)


def _stream_http(url: str) -> Iterator[bytes]:
    parts = urlsplit(url)
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    bare = public(url)  # the client logs its URL
    headers = {"Accept-Encoding": "identity"}
    try:
        with httpx2.stream(
            "GET", bare, auth=auth, headers=headers, timeout=_TIMEOUT, follow_redirects=True
        ) as response:
            if response.status_code in _TEMPORARY or response.status_code >= 500:
                raise _Temporary(f"the server answered {response.status_code}")
            if not response.is_success:
                raise RemoteError(
                    f"{bare}: the server answered {response.status_code}; check that this is the folder of the shards"
                )
            yield from response.iter_raw(_PART)
    except httpx2.RequestError as error:
        raise _Temporary(str(error) or type(error).__name__) from None
    except httpx2.InvalidURL as error:
        raise _refusal(url, error) from None


def _stream_fsspec(url: str) -> Iterator[bytes]:
    files, path = filesystem(url)
    try:
        with files.open(path, "rb") as file:
            while part := file.read(_PART):
                yield part
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise _refusal(url, error) from None
    except OSError as error:
        raise _Temporary(_without_credentials(url, error)) from None
    except Exception as error:  # clients of object stores share no error classes
        raise _refusal(url, error) from None


def _refusal(url: str, error: Exception) -> RemoteError:
    return RemoteError(f"{public(url)} cannot be read ({type(error).__name__}: {_without_credentials(url, error)})")


def _without_credentials(url: str, error: Exception) -> str:
    return str(error).replace(url, public(url))
