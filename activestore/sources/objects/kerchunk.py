"""Kerchunk references as sources: an offset stands for a file that they name, and a place in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from activestore.core.formats.zarr.keys import ChunkKeys, Places
from activestore.core.source import ReadableSource
from activestore.core.threads import concurrently
from activestore.errors import SourceError, UnsupportedError
from activestore.network.location import Origin
from activestore.network.redaction import kept_address, public_address, split_login, without_secrets
from activestore.process.forking import Lock
from activestore.sources.objects.references import Reference, References

__all__ = ["KerchunkSource", "TargetOptions", "split_options"]

_BITS = 44
"""Of an offset, those that count inside of a file: up to 16 TiB."""
_INLINE = (1 << (63 - _BITS)) - 1
"""Stands in the place of a file's number for bytes that are among the references."""
_OPEN = 64
"""Files that are kept open."""
_AT_ONCE = 16
_CLOUDS = frozenset({"s3", "s3a", "gs", "gcs", "http", "https", "abfs", "abfss", "az", "adl"})
"""What references that come from elsewhere may point to, besides their own kind of address."""

Opener = Callable[[str, Mapping[str, object]], ReadableSource]
"""Opens a file, given its address and options."""


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """How the files are reached that references name."""

    own: Mapping[str, Any] = field(repr=False)  # Any: options of many types
    """Options as fsspec takes them."""
    protocol: str | None = None
    """What stands before addresses without a protocol ("s3")."""
    anywhere: bool = True
    """Whether the options were given for the files; if not, they were for the references, and go to the same place only."""


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], TargetOptions]:
    """Return options for the references themselves, and for the files that they name.

    Examples:
        >>> split_options({"remote_options": {"anon": True}, "remote_protocol": "s3"})
        ({}, TargetOptions(protocol='s3', anywhere=True))
        >>> split_options({"anon": True})
        ({'anon': True}, TargetOptions(protocol=None, anywhere=False))
    """
    if not {"remote_options", "target_options", "remote_protocol"} & set(options):
        return dict(options), TargetOptions(dict(options), anywhere=False)
    protocol = options.get("remote_protocol")
    own = TargetOptions(dict(options.get("remote_options") or {}), None if protocol is None else str(protocol))
    return dict(options.get("target_options") or {}), own


class KerchunkSource:
    """The files that references name, as one source; safe to read from many threads, and picklable, without secrets."""

    def __init__(
        self,
        file: ReadableSource,
        load: tuple[Any, ...],
        *,
        references: References | None,
        opener: Opener,
        options: TargetOptions,
    ) -> None:
        """Read the files that references name.

        Parameters:
            file: Where the references are: its address, and its version.
            load: What gives the references, once they are needed: a function, which is called with `file`, and more.
            references: These, if they have been read.
            opener: Opens a file that they name.
            options: How these files are reached.
        """
        self._file, self._load, self._references = file, load, references
        self._opener, self._options = opener, options
        self._lock = Lock()
        self._numbers: dict[str, int] = {}
        self._urls: list[str] = []
        self._inline = bytearray()
        self._opened: OrderedDict[str, ReadableSource] = OrderedDict()
        self._places: dict[ChunkKeys, Places] = {}

    def __repr__(self) -> str:
        return f"KerchunkSource({self.uri!r})"

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        # The offsets that are in tasks have to mean the same there.
        options = TargetOptions(without_secrets(self._options.own), self._options.protocol, self._options.anywhere)
        urls = [kept_address(url) for url in self._urls]
        return _reopened, (self._file, self._load, self._opener, options, urls, bytes(self._inline))

    @property
    def uri(self) -> str:
        """The address of the references."""
        return self._file.uri

    @property
    def size(self) -> int:
        """Bytes of the chunks of variables that have been located as a whole, and of the references."""
        return self._file.size + sum(int(places.size.sum()) for places in list(self._places.values()))

    @property
    def version(self) -> str:
        """The version of the references when they were opened."""
        return self._file.version

    @property
    def is_remote(self) -> bool:
        """Whether a read waits for a network: the files are elsewhere, or may be."""
        return self._file.is_remote or any(not _is_local(url) for url in self._urls)

    @property
    def origin(self) -> Origin:
        """The file as a server that computes is told of it, if all references that are in use point to one."""
        found = getattr(self._target(self._urls[0]), "origin", None) if len(self._urls) == 1 else None
        if found is None or self._inline:
            what = "chunks that Kerchunk references place in several files, or among themselves"
            return Origin("kerchunk", self.uri, obstacle=what)
        origin: Origin = found
        return origin

    @property
    def file(self) -> ReadableSource:
        """Where the references are."""
        return self._file

    @property
    def targets(self) -> list[str]:
        """Addresses of the files that hold the chunks of the variables that have been located."""
        return [self._address(url) for url in list(self._urls)]

    def metadata(self) -> AbstractContextManager[KerchunkSource]:
        """Give the source itself: the references are kept."""
        return nullcontext(self)

    def current_version(self) -> str:
        """Return the version that the references have now.

        Raises:
            SourceError: They cannot be reached.
        """
        return self._file.current_version()

    def _loaded(self) -> References:
        with self._lock:
            if self._references is None:
                function, *more = self._load
                found: References = function(self._file, *more)
                self._references = found
            return self._references

    def read_object(self, key: str) -> bytes | None:
        """Return an object of metadata, None if there is none of that key.

        Raises:
            SourceError: The references are damaged.
        """
        return self._loaded().document(key)

    def folders(self, key: str) -> list[str]:
        """Return the names of the folders directly in the folder `key`, sorted."""
        return self._loaded().folders(key)

    def place_chunks(self, keys: ChunkKeys, wanted: npt.NDArray[np.int64] | None) -> Places:
        """Return where chunks are: at least of those `wanted`, ascending positions; of all for None.

        Raises:
            SourceError: A reference is damaged, or names a file that it must not.
        """
        known = self._places.get(keys)
        if known is None:
            known = Places.of(self._rows(self._loaded().chunks(keys, wanted)))
            if wanted is None:
                self._places[keys] = known
        return known

    def _rows(self, chunks: Iterable[tuple[int, Reference | bytes]]) -> list[tuple[int, int, int]]:
        rows: list[tuple[int, int, int]] = []
        whole: list[tuple[int, str]] = []
        for position, found in chunks:
            if isinstance(found, bytes):
                rows.append((position, (_INLINE << _BITS) + self._kept(found), len(found)))
            elif found.size is None:
                whole.append((position, found.url))
            else:
                rows.append((position, self._offset(found.url, found.offset, found.size), found.size))
        urls = list(dict.fromkeys(url for _, url in whole))
        sizes = dict(zip(urls, concurrently(lambda url: self._target(url).size, urls, _AT_ONCE), strict=True))
        return rows + [(position, self._offset(url, 0, sizes[url]), sizes[url]) for position, url in whole]

    def _kept(self, data: bytes) -> int:
        """Keep bytes that are among the references, and return where."""
        with self._lock:
            at = self._inline.find(data) if len(self._inline) < 1 << 16 else -1
            if at < 0:
                at = len(self._inline)
                self._inline += data
            return at

    def _offset(self, url: str, offset: int, size: int) -> int:
        if offset + size >= 1 << _BITS:
            raise SourceError(f"{self.uri}: a reference to {public_address(url)} ends at byte {offset + size}; is it damaged?")
        number = self._numbers.get(url)
        if number is None:
            self._check(url)
            with self._lock:
                number = self._numbers.setdefault(url, len(self._urls))
                if number == len(self._urls):
                    self._urls.append(url)
            if number >= _INLINE:
                raise UnsupportedError(f"{self.uri}: names more than {_INLINE} files")
        return (number << _BITS) + offset

    def _check(self, url: str) -> None:
        """Refuse references from elsewhere to files of this machine, and to whatever else they have no business with.

        Raises:
            SourceError: It is one.
        """
        if not self._file.is_remote:
            return
        own = self.uri.partition("://")[0].lower()
        for part in self._address(url).split("::"):
            scheme = part.partition("://")[0].lower() if "://" in part else ""
            if scheme not in _CLOUDS and (scheme != own or not scheme):
                raise SourceError(
                    f"{self.uri}: references from elsewhere must not name {public_address(url)!r}; copy the references here if "
                    "you trust them"
                )

    def _address(self, url: str) -> str:
        protocol = self._options.protocol
        return url if protocol is None or "://" in url else f"{protocol}://{url.lstrip('/') if protocol != 'file' else url}"

    def _options_for(self, address: str) -> Mapping[str, Any]:  # Any: options of many types
        """Return the options that go to an address: a web server is told only what was meant for it."""
        web = address.partition("://")[0].lower() in ("http", "https")
        if self._options.anywhere or not web or not self._file.is_remote:
            return self._options.own
        return self._options.own if _server(self.uri) == _server(address) else {}

    def _target(self, url: str) -> ReadableSource:
        """Return a file that references name; the last ones stay open."""
        with self._lock:
            if url in self._opened:
                self._opened.move_to_end(url)
                return self._opened[url]
        self._check(url)
        address = self._address(url)
        found = self._opener(address, self._options_for(address))
        with self._lock:
            found = self._opened.setdefault(url, found)
            while len(self._opened) > _OPEN:
                self._opened.popitem(last=False)
        return found

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each (offset, size), offsets as `place_chunks` gave them; fewer where a file ends.

        Raises:
            SourceError: A file cannot be read.
        """
        urls = self._urls
        by_file: dict[int, list[int]] = {}
        for i, (offset, _) in enumerate(ranges):
            by_file.setdefault(offset >> _BITS, []).append(i)
        unknown = [number for number in by_file if number != _INLINE and not 0 <= number < len(urls)]
        if unknown:
            raise SourceError(f"{self.uri}: nothing has the offset {unknown[0] << _BITS}")

        def read(number: int) -> list[bytes]:
            own = [(ranges[i][0] & ((1 << _BITS) - 1), ranges[i][1]) for i in by_file[number]]
            if number == _INLINE:
                return [bytes(self._inline[at : at + size]) for at, size in own]
            return self._target(urls[number]).read_ranges(own)

        numbers = list(by_file)
        found = [b""] * len(ranges)
        several = concurrently(read, numbers, _AT_ONCE, abandon=self.abandon) if self.is_remote else map(read, numbers)
        for number, parts in zip(numbers, several, strict=True):
            for i, data in zip(by_file[number], parts, strict=True):
                found[i] = data
        return found

    def abandon(self) -> None:
        """Break off the reads that are under way."""
        with self._lock:
            opened = list(self._opened.values())
        for file in opened:
            file.abandon()

    def for_hdf5(self) -> BinaryIO:
        """Refuse: the HDF5 library can read the files that references name, but not these.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(f"{self.uri}: holds Kerchunk references, which the HDF5 library cannot read")


def _server(address: str) -> str:
    """Return scheme, host and port of a web address, without the login."""
    scheme, _, place = split_login(address)[1].partition("://")
    return f"{scheme.lower()}://{place.partition('/')[0].lower()}"


def _is_local(url: str) -> bool:
    return "://" not in url or url.startswith("file://")


def _reopened(
    file: ReadableSource, load: tuple[Any, ...], opener: Opener, options: TargetOptions, urls: list[str], inline: bytes
) -> KerchunkSource:
    source = KerchunkSource(file, load, references=None, opener=opener, options=options)
    source._urls, source._inline = urls, bytearray(inline)
    source._numbers = {url: number for number, url in reversed(list(enumerate(urls)))}
    return source
