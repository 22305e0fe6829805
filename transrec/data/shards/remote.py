"""Files that lie at a URL: read as a stream, checked on arrival, asked for again while the other side recovers.

Considered: webdataset's own readers (a shell and curl behind `pipe:`), fsspec for everything (its http is a second,
asynchronous client), and this: httpx for http and https, fsspec for every other scheme. No URL ever reaches a shell.
Credentials in a URL (`https://user:password@host`) are used, and never shown.
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
# An `@` ends user and password and stands nowhere else; fsspec chains file systems with `::`.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://(?!.*::)([\w.~%:+=,!-]*@)?[\w.~/%:+=,!-]+")
_CREDENTIALS = re.compile(r"^([^:]*:(?://)?).*@")
_HTTP = ("http", "https")
_PART = 2**20  # bytes
_TIMEOUT = httpx2.Timeout(30, connect=10)  # seconds, of each read
_TRIES = 8
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 10.0  # seconds; doubling in between, some 25 s in all
_TEMPORARY = {408, 425, 429}  # and all from 500 on
_jitter = random.Random()  # its own: waiting must not move the random numbers of training


class UrlError(TransRecError, ValueError):
    """Something that looks like a URL and cannot be used as one."""


class RemoteError(TransRecError):
    """A file that could not be had from its URL; the message says why and after how many tries."""


class _Temporary(Exception):
    """Worth another try."""


def parse_place(text: str | Path) -> Path | str:
    """Where a set of shards lies, as a user writes it: a local `Path`, or a URL as text.

    Raises:
        UrlError: it begins like a URL and its scheme is unknown, or it has characters that no URL has.
    """
    scheme = _SCHEME.match(text) if isinstance(text, str) else None
    if scheme is None:
        return Path(text).expanduser()
    name = scheme[1].lower()
    if name not in (*_HTTP, *fsspec.available_protocols()):
        known = "http://, https://, s3:// or another scheme of fsspec"
        raise UrlError(f"{public(str(text))!r}: unknown scheme `{name}:`; write a folder, or a URL with {known}")
    if not _URL.fullmatch(str(text)):
        raise UrlError(
            f"{public(str(text))!r} is not a plain URL of a folder: write it as {name}://host/folder, without a query, "
            "other characters percent-encoded"
        )
    return str(text).rstrip("/")


Place = Annotated[Path | str, BeforeValidator(parse_place)]


def public(url: str) -> str:
    """The URL without user and password."""
    return _CREDENTIALS.sub(r"\1", url)


def read(url: str, most_bytes: int) -> bytes:
    """
    Raises:
        RemoteError: it cannot be had, or it is larger than `most_bytes`.
    """

    def attempt() -> bytes:
        data = bytearray()
        for part in _stream(url):
            data += part
            if len(data) > most_bytes:
                raise RemoteError(f"{public(url)} is larger than {most_bytes} bytes: it is not what it should be")
        return bytes(data)

    return _retry(url, attempt)


def fetch(url: str, target: Path, size: int, sha256: str) -> None:
    """Overwrite `target`, a file of `size` bytes, with what lies at `url` and must have this size and hash.

    Raises:
        RemoteError: it cannot be had, or what arrives is something else, every time.
    """

    def attempt() -> None:
        digest, arrived = hashlib.sha256(), 0
        with target.open("r+b") as file:
            for part in _stream(url):
                arrived += len(part)
                if arrived > size:
                    raise _Temporary(f"more than its {size} bytes arrived")
                digest.update(part)
                file.write(part)
        if arrived < size:
            raise _Temporary(f"{arrived} of its {size} bytes arrived")
        if digest.hexdigest() != sha256:
            raise _Temporary("what arrived has another SHA-256 than index.json says")

    _retry(url, attempt)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        RemoteError: a package is missing, or the URL lacks something.
    """
    try:
        found: tuple[Any, str] = fsspec.url_to_fs(url)
        return found
    except ImportError as error:
        extra = "pip install 'transrec[s3]'" if url.startswith("s3:") else str(error)
        raise RemoteError(f"{public(url)} needs a package that is not installed: {extra}") from None
    except Exception as error:  # each file system has its own
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
        f"{public(url)}: {reason} ({_TRIES} tries); see that the server is up and holds the whole set, then start again"
    )


def _stream(url: str) -> Iterator[bytes]:
    return _stream_http(url) if urlsplit(url).scheme.lower() in _HTTP else _stream_fsspec(url)


def _stream_http(url: str) -> Iterator[bytes]:
    parts = urlsplit(url)
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    bare = public(url)  # the client logs what it is given
    headers = {"Accept-Encoding": "identity"}
    try:
        with httpx2.stream(
            "GET", bare, auth=auth, headers=headers, timeout=_TIMEOUT, follow_redirects=True
        ) as response:
            if response.status_code in _TEMPORARY or response.status_code >= 500:
                raise _Temporary(f"the server answered {response.status_code}")
            if not response.is_success:
                raise RemoteError(f"{bare}: the server answered {response.status_code}; is this where the shards lie?")
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
    except Exception as error:  # what clients of object stores raise is not theirs to agree on
        raise _refusal(url, error) from None


def _refusal(url: str, error: Exception) -> RemoteError:
    return RemoteError(f"{public(url)} cannot be read ({type(error).__name__}: {_without_credentials(url, error)})")


def _without_credentials(url: str, error: Exception) -> str:
    return str(error).replace(url, public(url))
