"""The index cache: what was kept is found whole or not at all, whoever else uses it, and no failure of it breaks a run."""

import errno
import json
import logging
import os
import re
import stat
import struct
import subprocess
import sys
import threading
import time
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import pytest
from hypothesis import given
from hypothesis import strategies as st

import activestore
from activestore import Active
from activestore.sources import metadata_cache as index_cache
from activestore.sources.metadata_cache import ENTRY_LIMIT, TOTAL_LIMIT, CacheEntry, IndexCache, default_cache, usable_cache

URI = "https://store.example/tas.nc"
PRIVATE = "https://me:passw0rd@store.example/tas.nc?signature=s1gned"
SEGMENTS = {0: b"\x89HDF\r\n\x1a\n" + bytes(88), 4096: b"TREE" * 100, 2**40: b"last"}
SAME = {"size": 2**41, "version": '"5d41402a"'}
POSIX = pytest.mark.skipif(os.name != "posix", reason="modes of files")


@pytest.fixture
def cache(own_index_cache: Path) -> IndexCache:
    found = default_cache()
    assert found is not None
    return found


@pytest.fixture
def kept(cache: IndexCache) -> Path:
    """The file that holds SEGMENTS of URI."""
    cache.save(URI, **SAME, segments=SEGMENTS)
    (path,) = cache.folder.iterdir()
    return path


def signed(data: bytes) -> bytes:
    """The bytes of a file, with the checksum that belongs to them."""
    return data + blake2b(data, digest_size=32).digest()


def test_what_was_kept_is_found(cache):
    assert not cache.has(URI)
    assert cache.load(URI, **SAME) == {}
    cache.save(URI, **SAME, segments=SEGMENTS)
    assert cache.has(URI)
    assert cache.load(URI, **SAME) == SEGMENTS
    assert IndexCache(cache.folder).load(URI, **SAME) == SEGMENTS


@given(st.dictionaries(st.integers(0, 2**63), st.binary(min_size=1, max_size=50), min_size=1), st.text(), st.text(min_size=1))
def test_anything_that_was_kept_is_found(tmp_path_factory, segments, uri, version):
    cache = IndexCache(tmp_path_factory.getbasetemp() / "any")
    cache.save(f"x:{uri}", size=2**64, version=version, segments=segments)
    assert cache.load(f"x:{uri}", size=2**64, version=version) == segments
    assert cache.clear(f"x:{uri}") >= 1


def test_address_that_is_no_text(cache):
    uri = os.fsdecode(b"s3://bucket/\xff.nc") + "\0"
    cache.save(uri, **SAME, segments=SEGMENTS)
    assert cache.load(uri, **SAME) == SEGMENTS
    assert len(cache.entries()) == 1


def test_other_versions_are_absent_and_make_room(cache, kept):
    assert cache.load(URI, size=SAME["size"] + 1, version=SAME["version"]) == {}
    assert cache.load(URI, size=SAME["size"], version="other") == {}
    assert cache.load(URI + "?a", **SAME) == {}
    cache.save(URI, size=10, version="new", segments={0: b"new"})
    assert cache.load(URI, **SAME) == {}
    assert cache.load(URI, size=10, version="new") == {0: b"new"}
    assert list(cache.folder.iterdir()) == [kept]


@pytest.mark.parametrize(("version", "segments"), [("", SEGMENTS), ("v", {})])
def test_nothing_is_kept_without_a_version_or_without_bytes(cache, version, segments):
    cache.save(URI, size=5, version=version, segments=segments)
    assert not cache.has(URI)
    assert not cache.folder.exists()


def test_the_file_is_what_the_documentation_says(cache, kept):
    data = kept.read_bytes()
    assert data[:8] == b"ASINDEX\x01"
    (length,) = struct.unpack("<I", data[8:12])
    header = json.loads(data[12 : 12 + length])
    assert header == {
        "key": kept.stem,
        "uri": URI,
        "size": SAME["size"],
        "version": SAME["version"],
        "segments": [[offset, len(part)] for offset, part in SEGMENTS.items()],
    }
    assert data[12 + length : -32] == b"".join(SEGMENTS.values())
    assert signed(data[:-32]) == data
    page = (Path(activestore.__file__).parents[1] / "docs" / "cache.md").read_text(encoding="utf-8")
    for word in (*header, "ASINDEX", "BLAKE2b"):
        assert word in page


def test_each_changed_bit_is_noticed(cache, kept, caplog):
    whole = kept.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        kept.write_bytes(damaged)
        assert cache.load(URI, **SAME) == {}, at
    assert "damaged" in caplog.text
    kept.write_bytes(whole)
    assert cache.load(URI, **SAME) == SEGMENTS


def test_cut_off_and_longer_files_are_absent(cache, kept):
    whole = kept.read_bytes()
    for length in range(len(whole)):
        kept.write_bytes(whole[:length])
        assert cache.load(URI, **SAME) == {}, length
    for more in (b"\0", whole):
        kept.write_bytes(whole + more)
        assert cache.load(URI, **SAME) == {}
    assert cache.has(URI)
    cache.save(URI, **SAME, segments=SEGMENTS)
    assert cache.load(URI, **SAME) == SEGMENTS


HEADER = {"key": "k", "uri": URI, "size": 1, "version": "v", "segments": []}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b"null",
        json.dumps(HEADER | {"size": "1"}).encode(),
        json.dumps(HEADER | {"version": None}).encode(),
        json.dumps(HEADER | {"segments": [[0, 5]]}).encode(),
        json.dumps(HEADER | {"segments": [[0, -5]]}).encode(),
        json.dumps(HEADER | {"segments": [[-1, 0]]}).encode(),
        json.dumps(HEADER | {"segments": [[0.0, 0]]}).encode(),
        json.dumps(HEADER | {"segments": [[True, 0]]}).encode(),
        json.dumps(HEADER | {"segments": [0]}).encode(),
        json.dumps(HEADER | {"segments": [[0, 0, 0]]}).encode(),
    ],
)
def test_wrong_headers_with_a_right_checksum_are_absent(cache, kept, header):
    kept.write_bytes(signed(b"ASINDEX\x01" + struct.pack("<I", len(header)) + header))
    assert cache.load(URI, **SAME) == {}
    assert len(cache.entries()) <= 1


def test_other_formats_are_absent(cache, kept):
    whole = kept.read_bytes()
    for data in (
        b"",
        b"not of ours, but as long as one of ours would have to be at least",
        signed(b"ASINDEX\x02" + whole[8:-32]),
        signed(b"ASINDEX\x01" + b"\xff\xff\xff\xff" + whole[12:-32]),
    ):
        kept.write_bytes(data)
        assert cache.load(URI, **SAME) == {}
        assert cache.entries() == []


def test_a_file_under_another_name_is_absent(cache, kept):
    cache.save(PRIVATE, **SAME, segments=SEGMENTS)
    (other,) = set(cache.folder.iterdir()) - {kept}
    os.replace(kept, other)
    assert cache.load(PRIVATE, **SAME) == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_what_is_not_a_file_is_absent(cache, kept):
    kept.unlink()
    os.mkfifo(kept)
    assert cache.load(URI, **SAME) == {}
    assert cache.entries() == []
    assert cache.clear() == 0
    kept.unlink()
    kept.mkdir()
    assert cache.load(URI, **SAME) == {}
    cache.save(URI, **SAME, segments=SEGMENTS)
    assert cache.load(URI, **SAME) == {}
    assert list(cache.folder.iterdir()) == [kept]


def test_addresses_are_told_apart_and_shown_without_secrets(cache):
    chained = f"simplecache::{PRIVATE}"
    for number, uri in enumerate((URI, PRIVATE, chained)):
        cache.save(uri, **SAME, segments={number: b"x"})
    assert [list(cache.load(uri, **SAME)) for uri in (URI, PRIVATE, chained)] == [[0], [1], [2]]
    assert sorted(entry.uri for entry in cache.entries()) == [URI, URI, f"simplecache::{URI}"]
    for path in cache.folder.iterdir():
        for secret in ("me:", "passw0rd", "s1gned"):
            assert secret not in path.name
            assert secret.encode() not in path.read_bytes()


@POSIX
def test_files_are_the_users_own(cache, kept):
    old = os.umask(0)
    try:
        cache.save(URI, **SAME, segments=SEGMENTS)
        cache.save(PRIVATE, **SAME, segments=SEGMENTS)
    finally:
        os.umask(old)
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in cache.folder.iterdir()} == {0o600}


OTHER = 65534
"""A user who is neither this one nor the system's own."""
AS_ROOT = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can give files away")


@POSIX
def test_folders_are_made_for_the_user_alone(tmp_path):
    old = os.umask(0)
    try:
        IndexCache(tmp_path / "new" / "newer" / "index").save(URI, **SAME, segments=SEGMENTS)
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}


@POSIX
@pytest.mark.parametrize(
    ("which", "mode", "owner", "why"),
    [
        ("folder", 0o777, None, r"all users can write to it \(mode 777; chmod 700\)"),
        ("folder", 0o1777, None, r"all users can write to it \(mode 1777; chmod 700\)"),
        ("above", 0o777, None, "all users can write to .*"),
        ("file", 0o666, None, r"all users can write to it \(mode 666; chmod 700\)"),
        pytest.param("folder", 0o700, (OTHER, -1), "it belongs to another user", marks=AS_ROOT),
        pytest.param("file", 0o600, (OTHER, OTHER), "it belongs to another user", marks=AS_ROOT),
        pytest.param("folder", 0o770, (-1, OTHER), "a group of users can write to it", marks=AS_ROOT),
        pytest.param("file", 0o660, (-1, OTHER), "a group of users can write to it", marks=AS_ROOT),
    ],
)
def test_what_others_may_have_written_is_absent(cache, kept, caplog, monkeypatch, which, mode, owner, why):
    """Names and checksums of files need no secret: whoever can write there could plant other offsets, or other metadata."""
    assert cache.load(URI, **SAME) == SEGMENTS
    changed = {"folder": cache.folder, "above": cache.folder.parent, "file": kept}[which]
    if owner is not None:
        os.chown(changed, *owner)
    changed.chmod(mode)
    for _ in range(3):
        assert cache.load(URI, **SAME) == {}
    assert re.search(why, caplog.text)
    monkeypatch.setattr(index_cache, "default_cache", lambda: cache)
    assert usable_cache() == (cache if which == "file" else None)
    # It can be seen, and removed.
    assert cache.clear() == 1


@POSIX
def test_a_folder_of_all_with_a_sticky_bit_may_be_above(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    cache = IndexCache(tmp_path / "tmp" / "me" / "index")
    cache.save(URI, **SAME, segments=SEGMENTS)
    assert cache.load(URI, **SAME) == SEGMENTS


@POSIX
def test_links_are_not_followed_to_what_others_have(cache, kept, tmp_path, caplog):
    there = tmp_path / "planted"
    os.replace(kept, there)
    kept.symlink_to(there)
    assert cache.load(URI, **SAME) == {}
    kept.unlink()
    os.replace(there, kept)
    os.replace(cache.folder, tmp_path / "elsewhere")
    cache.folder.symlink_to(tmp_path / "elsewhere")
    assert cache.load(URI, **SAME) == SEGMENTS  # a link of one's own
    if os.geteuid() == 0:
        os.chown(cache.folder, OTHER, OTHER, follow_symlinks=False)
        assert cache.load(URI, **SAME) == {}
        assert "the link belongs to another user" in caplog.text


@POSIX
def test_a_group_of_one_s_own_may_write(monkeypatch, cache, kept):
    import grp
    import pwd

    cache.folder.chmod(0o770)
    user = pwd.getpwuid(os.geteuid())
    for members, safe in (([], True), ([user.pw_name], True), (["another"], False)):
        group = grp.struct_group((user.pw_name, "x", user.pw_gid, members))
        monkeypatch.setattr(grp, "getgrgid", lambda _, group=group: group)
        os.chown(cache.folder, -1, user.pw_gid)
        assert (cache.load(URI, **SAME) == SEGMENTS) == safe


def test_entries_say_what_is_kept(cache, kept):
    before = time.time()
    assert cache.entries() == [
        CacheEntry(URI, SAME["size"], SAME["version"], 3, 500, kept.stat().st_size, kept.stat().st_mtime)
    ]
    os.utime(kept, (0, 0))
    cache.save(PRIVATE, size=1, version="v", segments={0: b"x", 9: b""})
    assert [(entry.segments, entry.index_bytes, entry.last_used > before - 10) for entry in cache.entries()] == [
        (1, 1, True),
        (3, 500, False),
    ]
    assert len(cache.entries(URI)) == 2
    assert len(cache.entries(PRIVATE)) == 1
    assert cache.entries("https://store.example/other.nc") == []
    assert IndexCache(cache.folder / "none").entries() == []


def test_clear(cache, kept):
    for uri in (PRIVATE, URI + "?version=2", "s3://bucket/a.nc"):
        cache.save(uri, **SAME, segments=SEGMENTS)
    assert cache.clear("s3://bucket/b.nc") == 0
    assert cache.clear(PRIVATE) == 1
    assert cache.has(URI)
    assert cache.clear(URI) == 2
    assert [entry.uri for entry in cache.entries()] == ["s3://bucket/a.nc"]
    (cache.folder / ("0" * 40 + ".index")).write_bytes(b"damaged")
    (cache.folder / "unfinished.part").write_bytes(b"half")
    (cache.folder / "notes.txt").write_bytes(b"not of ours")
    assert cache.clear() == 2
    assert [path.name for path in cache.folder.iterdir()] == ["notes.txt"]
    assert cache.clear() == 0
    assert IndexCache(cache.folder / "none").clear() == 0


def test_what_is_too_large_is_not_kept(cache, kept):
    cache.save(PRIVATE, **SAME, segments={0: bytes(ENTRY_LIMIT)})
    assert not cache.has(PRIVATE)
    assert list(cache.folder.iterdir()) == [kept]
    cache.save(PRIVATE, **SAME, segments={0: bytes(ENTRY_LIMIT - 1000)})
    assert len(cache.load(PRIVATE, **SAME)[0]) == ENTRY_LIMIT - 1000
    with open(kept, "r+b") as file:
        file.truncate(ENTRY_LIMIT + 1)
    assert cache.load(URI, **SAME) == {}


def addresses(cache):
    return {entry.uri for entry in cache.entries()}


def test_what_was_used_least_recently_makes_room(cache):
    uris = [f"s3://bucket/{number}" for number in range(5)]
    for number, uri in enumerate(uris):
        cache.save(uri, **SAME, segments={0: bytes(1000)})
        (path,) = [path for path in cache.folder.iterdir() if path.stat().st_mtime > 10**9]
        os.utime(path, (number, number))
    size = cache.entries()[0].disk_bytes
    assert {entry.disk_bytes for entry in cache.entries()} == {size}
    assert cache.load(uris[0], **SAME)
    small = IndexCache(cache.folder, 3 * size)
    small.save("s3://bucket/9", **SAME, segments={0: bytes(1000)})
    assert addresses(cache) == {uris[0], uris[4], "s3://bucket/9"}
    IndexCache(cache.folder, 0).save("s3://bucket/8", **SAME, segments=SEGMENTS)
    assert addresses(cache) == set()


def test_unfinished_files_of_processes_that_ended_are_removed(cache, kept):
    abandoned, new = cache.folder / "a.part", cache.folder / "b.part"
    for path in (abandoned, new):
        path.write_bytes(b"half")
    os.utime(abandoned, (0, 0))
    cache.save(URI, **SAME, segments=SEGMENTS)
    assert set(cache.folder.iterdir()) == {kept, new}


def test_the_environment_names_the_folder_and_the_limit(monkeypatch, tmp_path, caplog):
    monkeypatch.chdir(tmp_path)
    for text, folder in (("there", tmp_path / "there"), (" /else/where ", Path("/else/where")), ("~", Path.home())):
        monkeypatch.setenv("ACTIVESTORE_CACHE", text)
        assert default_cache() == IndexCache(Path(os.path.abspath(folder)) / "index", TOTAL_LIMIT)
    for text in ("off", "OFF", " off ", "~nobody-of-this-name/x"):
        monkeypatch.setenv("ACTIVESTORE_CACHE", text)
        assert default_cache() is None
    monkeypatch.setenv("ACTIVESTORE_CACHE", "there")
    for text, limit in (("", TOTAL_LIMIT), ("0", 0), (" 5000 ", 5000)):
        monkeypatch.setenv("ACTIVESTORE_CACHE_LIMIT", text)
        assert default_cache().limit == limit
    assert caplog.text == ""
    for text in ("1 GiB", "-1", "1e9", "٣", "9" * 5000):
        monkeypatch.setenv("ACTIVESTORE_CACHE_LIMIT", text)
        assert default_cache().limit == default_cache().limit == TOTAL_LIMIT
    assert len(caplog.records) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="folders of Linux")
def test_the_users_cache_folder_is_the_default(monkeypatch, tmp_path):
    monkeypatch.delenv("ACTIVESTORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == IndexCache(tmp_path / "activestore" / "index", TOTAL_LIMIT)
    monkeypatch.setenv("ACTIVESTORE_CACHE", "")
    assert default_cache() == IndexCache(tmp_path / "activestore" / "index", TOTAL_LIMIT)
    monkeypatch.setattr(index_cache, "_user_folder", lambda: "~/.cache/activestore")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert default_cache() is None


def test_what_it_imports_only_if_it_is_asked(own_index_cache):
    program = (
        "import sys; from activestore import index_cache\n"
        "index_cache.default_cache(); assert 'platformdirs' not in sys.modules\n"
        "import activestore; assert not {'h5netcdf', 'xarray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_full_disk_breaks_nothing(cache, kept, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for _ in range(3):
        cache.save(URI, size=1, version="new", segments={0: b"new"})
    assert list(cache.folder.iterdir()) == [kept]
    assert cache.load(URI, **SAME) == SEGMENTS
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "No space left on device" in record.getMessage()
    assert "ACTIVESTORE_CACHE" in record.getMessage()
    assert URI not in record.getMessage()


def test_an_interrupt_leaves_nothing_half_done(cache, kept, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.save(URI, size=1, version="new", segments={0: b"new"})
    assert list(cache.folder.iterdir()) == [kept]


def test_a_folder_that_cannot_be_made_breaks_nothing(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    for cache in (IndexCache(tmp_path / "file"), IndexCache(tmp_path / "file" / "index"), IndexCache(tmp_path / ("x" * 300))):
        cache.save(URI, **SAME, segments=SEGMENTS)
        assert not cache.has(URI)
        assert cache.load(URI, **SAME) == {}
        assert cache.entries() == []
        assert cache.clear() == 0
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def refused(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_files_that_may_not_be_touched_break_nothing(cache, kept, monkeypatch, caplog):
    """As on a disk that is mounted to be read only."""
    monkeypatch.setattr(os, "utime", refused)
    assert cache.load(URI, **SAME) == SEGMENTS
    assert caplog.text == ""
    for name in ("unlink", "replace"):
        monkeypatch.setattr(os, name, refused)
    monkeypatch.setattr("tempfile.mkstemp", refused)
    cache.save(PRIVATE, **SAME, segments=SEGMENTS)
    IndexCache(cache.folder, 0)._trim()
    assert cache.clear() == 0
    assert cache.load(URI, **SAME) == SEGMENTS
    assert "Permission denied" in caplog.text
    monkeypatch.setattr(os, "open", refused)
    assert cache.load(URI, **SAME) == {}
    assert "cannot be read (Permission denied)" in caplog.text


def test_an_address_that_is_none_breaks_nothing(cache, caplog):
    cache.save("https://me:passw0rd@[::1/a.nc", **SAME, segments=SEGMENTS)
    for uri in ("https://me:passw0rd@[::1/a.nc", "https://[::1/b.nc", "://", "s3://", "s3://[", ""):
        cache.save(uri, **SAME, segments=SEGMENTS)
        assert cache.load(uri, **SAME) == SEGMENTS
        assert len(cache.entries(uri)) == 1
    for entry in cache.entries():
        assert "passw0rd" not in repr(entry)
        assert cache.clear(entry.uri) == 1
    assert cache.clear("s3://bucket/key") == 0
    assert caplog.text == ""


@pytest.mark.parametrize(
    "url",
    [
        "https://store.example/climate/a%20b/tas.nc",
        "http://127.0.0.1:7070/climate/a%20b/tas.nc",
        "https://climate.s3.eu-west-1.amazonaws.com/a%20b/tas.nc",
        "https://s3.eu-west-1.amazonaws.com/climate/a%20b/tas.nc",
        "s3://climate/a b/tas.nc",
    ],
)
def test_objects_in_s3_are_found_by_bucket_and_key(cache, url):
    others = ("https://store.example/climate/tas.nc", "https://climate2.s3.x.amazonaws.com/a%20b/tas.nc", "s3://climate/tas.nc")
    for uri in (url, *others):
        cache.save(uri, **SAME, segments=SEGMENTS)
    assert [entry.uri for entry in cache.entries("s3://climate/a b/tas.nc")] == [url]
    assert cache.clear("s3://climate/a b/tas.nc") == 1
    assert len(cache.entries()) == 3


def test_files_that_vanish_meanwhile_break_nothing(cache, kept, monkeypatch):
    """Another process clears the cache between any two steps."""
    names = [kept.name, "0" * 40 + ".index", "gone.part"]
    monkeypatch.setattr(os, "listdir", lambda _: names)
    assert len(cache.entries()) == 1
    cache._trim()
    assert cache.clear() == 1
    assert cache.clear() == 0
    assert index_cache._removed(kept) is False


def version_of(number: int) -> dict[int, bytes]:
    """Segments that belong together, unlike those of any other number."""
    return {offset: bytes([number % 256]) * (500 + number % 7 * 1000) for offset in range(0, 30 * 10_000, 10_000)}


def keep_and_find(folder: str, worker: int, rounds: int) -> int:
    """Save, load, list and now and then clear, as others do at the same time; return how often something was found."""
    cache, found = IndexCache(Path(folder), 2_000_000), 0
    for number in range(rounds):
        uri = f"s3://bucket/{number % 3}"
        cache.save(uri, size=number % 2, version=str(number), segments=version_of(number))
        for version in {number, max(0, number - 3), number + 3}:
            segments = cache.load(uri, size=version % 2, version=str(version))
            assert segments in ({}, version_of(version))
            found += bool(segments)
        assert all(entry.segments == 30 for entry in cache.entries())
        if worker == 0 and number % 25 == 24:
            cache.clear()
    return found


def test_threads_share_it(cache, caplog):
    found = []
    threads = [
        threading.Thread(target=lambda worker=worker: found.append(keep_and_find(str(cache.folder), worker, 40)))
        for worker in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 6
    assert all(found)
    assert caplog.text == ""
    assert len(list(cache.folder.iterdir())) <= 3


def test_processes_share_it(cache):
    program = (
        f"import runpy; run = runpy.run_path({__file__!r}); print(run['keep_and_find']({str(cache.folder)!r}, WORKER, 100))"
    )
    commands = [[sys.executable, "-W", "error", "-c", program.replace("WORKER", str(worker))] for worker in range(4)]
    processes = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for one in commands]
    done = [process.communicate(timeout=120) for process in processes]
    assert [error for _, error in done] == [""] * 4
    assert all(int(found) > 0 for found, _ in done)
    assert all(path.suffix == ".index" for path in cache.folder.iterdir())


@POSIX
def test_a_process_that_is_killed_leaves_no_half_file(cache, kept):
    program = (
        "import os, signal; from pathlib import Path; from activestore import index_cache\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"index_cache.IndexCache(Path({str(cache.folder)!r})).save({URI!r}, size=1, version='new', segments={{0: b'new'}})"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode < 0
    assert cache.load(URI, **SAME) == SEGMENTS
    assert len(list(cache.folder.glob("*.part"))) == 1
    assert cache.clear() == 1
    assert list(cache.folder.iterdir()) == []


class Files(BaseHTTPRequestHandler):
    """Answers ranges of one file, with the headers that the server has as its `marks`."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(slice(None), 200)

    def do_GET(self):
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        self.wfile.write(self.answer(slice(first, last + 1), 206))

    def answer(self, part: slice, status: int) -> bytes:
        whole = self.server.path.read_bytes()
        self.server.requests.append(f"{self.command} {self.headers.get('Range', '')}")
        self.send_response(status)
        headers = {"Content-Length": len(whole[part]), **self.server.marks}
        if status == 206:
            headers["Content-Range"] = f"bytes {part.start}-{part.start + len(whole[part]) - 1}/{len(whole)}"
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        return whole[part]

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A server of the file `path`, with a version that is its `marks`; notes each of the `requests`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.path, server.requests, server.marks = tmp_path / "x.h5", [], {"ETag": '"one"'}
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def mean_of_first_chunk(server) -> float:
    server.requests.clear()
    return float(Active(f"http://127.0.0.1:{server.server_port}/x.h5", "x")[:10].mean())


def write_chunks(path: Path, order: list[int]) -> None:
    """Write a file whose chunks lie in another order, with the same values and of the same size."""
    with h5py.File(path, "w") as file:
        numbers = file.create_dataset("x", (4000,), "f4", chunks=(10,))
        for number in order:
            numbers[number * 10 : number * 10 + 10] = number


def test_a_file_that_is_opened_again_costs_one_request(server, cache):
    write_chunks(server.path, list(range(400)))
    assert mean_of_first_chunk(server) == 0
    assert len(cache.entries()) == 1
    server.requests.clear()
    x = Active(f"http://127.0.0.1:{server.server_port}/x.h5", "x")
    assert server.requests == ["HEAD "]
    offset = int(x.variable.table.offset[0])
    assert server.requests == ["HEAD "]
    assert x[:10].mean() == 0
    assert [one for one in server.requests if one != "HEAD "] == [f"GET bytes={offset}-{offset + 39}"]


def test_metadata_of_an_older_version_are_not_used(server, cache):
    write_chunks(server.path, [0, 1, 2, 3])
    assert mean_of_first_chunk(server) == 0
    size = server.path.stat().st_size
    write_chunks(server.path, [3, 2, 1, 0])
    assert server.path.stat().st_size == size
    server.marks = {"ETag": '"two"'}
    assert mean_of_first_chunk(server) == 0


def test_metadata_of_a_file_without_a_version_are_not_used(server, cache):
    server.marks = {}
    write_chunks(server.path, [0, 1, 2, 3])
    assert mean_of_first_chunk(server) == 0
    write_chunks(server.path, [3, 2, 1, 0])
    assert mean_of_first_chunk(server) == 0
