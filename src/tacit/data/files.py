"""Files that are not bundled: in the folder TACIT_DATA, in the cache, or from their public home.

A file is known by the sha256 of its uncompressed bytes, whichever way it came.
"""

import hashlib
import os
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tacit.errors import InputError, MissingDataError

_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class File:
    """One file of a source.

    Attributes:
        path: where it lies in TACIT_DATA (there possibly with .gz appended) and in the cache.
        size: its uncompressed bytes.
        sha256: of its uncompressed bytes.
        url: its public home; an address that ends in .gz is decompressed.
    """

    path: str
    size: int
    sha256: str
    url: str


def contents(source: str, files: Sequence[File]) -> list[bytes]:
    """The uncompressed bytes of every file of ``source``; what is missing is fetched.

    Raises:
        MissingDataError: a file is on neither place and cannot be fetched.
        InputError: a file's bytes are not the published ones.
    """
    return [_read(path, file) for path, file in zip(fetch(source, files), files, strict=True)]


def fetch(source: str, files: Sequence[File]) -> list[Path]:
    """Where each file lies on this machine, after fetching those that did not.

    Raises:
        MissingDataError: a file cannot be fetched.
        InputError: what came is not the published file; nothing of it is kept.
    """
    from http.client import HTTPException

    paths = []
    for file in files:
        path = _locate(file)
        if path is None:
            try:
                path = _download(file)
            except (OSError, HTTPException) as error:
                wanted = ", ".join(each.path for each in files)
                raise MissingDataError(
                    f"data: {source} is not on this machine and could not be fetched"
                    f" from {file.url} ({error}); set TACIT_DATA to a folder that holds {wanted},"
                    f" or run `tacit data fetch {source}` while online"
                ) from error
        paths.append(path)
    return paths


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "tacit"


def _locate(file: File) -> Path | None:
    places = [_cache() / file.path]
    if folder := os.environ.get("TACIT_DATA"):
        path = Path(folder) / file.path
        places = [path, path.with_name(path.name + ".gz"), *places]
    return next((place for place in places if place.is_file()), None)


def _read(path: Path, file: File) -> bytes:
    raw = path.read_bytes()
    return _checked(raw, file, packed=path.name.endswith(".gz"), where=str(path))


def _download(file: File) -> Path:
    from urllib.request import urlopen

    with urlopen(file.url, timeout=_TIMEOUT_SECONDS) as response:
        raw = response.read(file.size + 1)
    data = _checked(raw, file, packed=file.url.endswith(".gz"), where=file.url)
    path = _cache() / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def _checked(raw: bytes, file: File, *, packed: bool, where: str) -> bytes:
    try:
        data = zlib.decompressobj(wbits=31).decompress(raw, file.size + 1) if packed else raw
    except zlib.error as error:
        raise InputError(f"data: {where} is not a whole gzip file ({error})") from error
    found = hashlib.sha256(data).hexdigest()
    if found != file.sha256:
        raise InputError(
            f"data: {where} is not the published file (sha256 {found} instead of {file.sha256})"
        )
    return data
