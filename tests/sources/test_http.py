"""Files behind HTTP, beside a stand-in for web servers: ranges, versions, redirects, credentials, errors and numbers."""

import base64
import contextlib
import dataclasses
import functools
import gc
import io
import itertools
import logging
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activestore import Active, Capabilities
from activestore.cli import main as cli
from activestore.core.reductions import REDUCTIONS, Reduction
from activestore.errors import ConfigurationError, SourceError, SourceNotFoundError, SumOverflowError
from activestore.network import http_client as transport
from activestore.sources import http as http_source
from activestore.sources.metadata_cache import default_cache
from activestore.sources.open import open_source
from tests import generated
from tests.generated import NAME, Recipe, recipes
from tests.web_stand_in import RESET, Reply, WebStandIn, ranged

SECRETS = ("hunter2", "hunter%402", "wJalr-signature")
CONTENT = np.random.default_rng(0).bytes(300_000)
TAS = Path("docs/tas.nc").resolve().read_bytes() if Path("docs/tas.nc").exists() else b""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No proxy, and no time between retries."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}:
            monkeypatch.delenv(name)
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def web():
    with WebStandIn() as server:
        server.files["/a"] = CONTENT
        server.files["/x.h5"] = chunked(0)
        yield server


@functools.cache
def chunked(seed: int) -> bytes:
    """Return a file with `x(40, 30)` in 100 chunks, and 200 kB of nothing before them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.h5")
        with h5py.File(path, "w") as file:
            file["before"] = np.zeros(50_000, "f4")
            file.create_dataset("x", data=numbers(seed), chunks=(4, 3), shuffle=True, compression="gzip")
        return path.read_bytes()


def numbers(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(40, 30)).astype("f4")


def shown(error: BaseException) -> str:
    """Return an error as Python prints it, causes included, without the lines of source around it."""
    parts, seen = [], error
    while seen is not None:
        parts += traceback.format_exception_only(seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "".join(parts)


def refused(*arguments, match: str, kind=SourceError, **options) -> str:
    """Open and reduce what cannot be; return the error, which has one line."""
    with pytest.raises(kind, match=match) as caught:
        Active(*arguments, **options).sum()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Ranges


def test_ranges_are_read_in_few_requests_whatever_their_order(web):
    source = open_source(f"{web.url}/a")
    assert (source.size, source.uri, source.is_remote) == (len(CONTENT), f"{web.url}/a", True)
    assert web.asked == ["GET /a"]
    assert web.requests[0].range == (0, 65535)
    ranges = [(250_000, 100), (70_000, 10), (3, 0), (70_100, 1000), (299_990, 50), (400_000, 5), (70_000, 10), (-9, 5)]
    wanted = [CONTENT[at : at + size] if at >= 0 else b"" for at, size in ranges]
    assert source.read_ranges(ranges) == wanted
    assert sorted(request.range for request in web.requests[1:]) == [(70_000, 71_099), (250_000, 250_099), (299_990, 299_999)]
    assert source.read_ranges([]) == []


def test_many_threads_read_at_once_over_no_more_connections_than_allowed(web, monkeypatch):
    monkeypatch.setattr(http_source, "_AT_ONCE", 8)
    source = open_source(f"{web.url}/a")

    def read(seed):
        places = np.random.default_rng(seed).integers(0, 300_000, (5, 2)).tolist()
        return source.read_ranges([(at, size % 999) for at, size in places]) == [
            CONTENT[at : at + size % 999] for at, size in places
        ]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(read, range(100)))
    assert web.connections <= 8
    assert len(web.requests) > 200


def test_reductions_are_those_of_the_local_file(web, tmp_path):
    (tmp_path / "x.h5").write_bytes(chunked(0))
    local, remote = Active(tmp_path / "x.h5", "x"), Active(f"{web.url}/x.h5", "x")
    for part in (np.s_[...], np.s_[3:9, ::-2], np.s_[[1, 30], 4], np.s_[5:5]):
        assert as_bytes(remote[part].run(("mean", "std", "argmax", "count"), 0)) == as_bytes(
            local[part].run(("mean", "std", "argmax", "count"), 0)
        )
    np.testing.assert_array_equal(remote.read(), numbers(0))
    assert len(web.requests) < 30
    assert as_bytes(pickle.loads(pickle.dumps(remote)).run("mean")) == as_bytes(local.run("mean"))


def as_bytes(result) -> list[tuple[bytes, bytes]]:
    return [(np.ma.getdata(value).tobytes(), np.ma.getmaskarray(value).tobytes()) for value in result.values.values()]


@pytest.fixture(scope="module")
def made_up():
    with WebStandIn() as server:
        yield server


@settings(max_examples=settings().max_examples)
@given(recipe=recipes(), data=st.data())
def test_whatever_the_file_the_numbers_are_those_of_the_local_one(
    made_up: WebStandIn, recipe: Recipe, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.nc")
        generated.write(recipe, path)
        made_up.files["/a.nc"] = path.read_bytes()
        local, remote = Active(path, NAME), Active(f"{made_up.url}/a.nc", NAME)
        assert (remote.shape, remote.dtype, remote.dims, remote.chunks) == (local.shape, local.dtype, local.dims, local.chunks)
        part = tuple(slice(*sorted(data.draw(st.lists(st.integers(0, 7), min_size=2, max_size=2)))) for _ in local.shape)
        axis = data.draw(st.sampled_from([None, *range(local.ndim)]))
        for selected in (np.s_[...], part):
            for name in REDUCTIONS:
                try:
                    wanted = as_bytes(local[selected].run(name, axis))
                except SumOverflowError:
                    with pytest.raises(SumOverflowError):
                        remote[selected].run(name, axis)
                else:
                    assert as_bytes(remote[selected].run(name, axis)) == wanted, name


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_groups_user_blocks_and_every_index(web, tmp_path, libver):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver=libver, userblock_size=1024) as file:
        for name, maxshape in (
            ("fixed", (200, 30)),
            ("growing", (None, 30)),
            ("all growing", (None, None)),
            ("odd", (200, None)),
        ):
            file.create_dataset(f"group/sub/{name}", data=np.arange(6000).reshape(200, 30), chunks=(2, 30), maxshape=maxshape)
        file["group/contiguous"] = np.arange(100_000.0)
        file.create_dataset("group/unwritten", (1000, 1000), "f4", chunks=(10, 10), fillvalue=2)
    web.files["/a.h5"] = path.read_bytes()
    names = ("fixed", "growing", "all growing", "odd")
    for name, part in ((f"group/sub/{name}", part) for name in names for part in (np.s_[...], np.s_[77], np.s_[::50, 3])):
        assert Active(f"{web.url}/a.h5", name)[part].sum() == np.arange(6000).reshape(200, 30)[part].sum()
    assert Active(f"{web.url}/a.h5", "group/contiguous")[500:90_000].sum() == np.arange(500, 90_000).sum()
    web.requests.clear()
    assert Active(f"{web.url}/a.h5", "group/unwritten")[:20].mean() == 2


# What servers do


def test_a_server_without_ranges(web):
    web.rule = lambda request: Reply(200, {"Accept-Ranges": "none"}, web.files[request.path], sent=None, ending="close")
    refused(f"{web.url}/x.h5", "x", match="does it ignore byte ranges, which reductions need")
    small = np.arange(5.0)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["x"] = small
    web.files["/small.h5"] = buffer.getvalue()
    assert Active(f"{web.url}/small.h5", "x").sum() == 10, "a small file fits into the first answer"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda reply: Reply(206, {**reply.headers, "Content-Range": "bytes 7-99/1000000"}, reply.body),
        lambda reply: Reply(206, reply.headers, reply.body[:-1]),
        lambda reply: Reply(206, reply.headers, reply.body + b"x"),
        lambda reply: Reply(206, reply.headers, b""),
        lambda reply: Reply(200, {**reply.headers, "Content-Range": ""}, reply.body),
        lambda _: Reply(204),
        lambda _: Reply(304),
        lambda _: Reply(418),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for(web, wrong):
    active = Active(f"{web.url}/x.h5", "x")

    def rule(request):
        if request.range is None or request.range[0] == 0:
            return None
        return wrong(web.usual(request))

    web.rule = rule
    with pytest.raises(SourceError) as caught:
        active.sum()
    assert f"{web.url}/x.h5: " in str(caught.value)


def test_a_short_answer_is_asked_for_again(web):
    def rule(request):
        if request.range is not None and request.range[0] > 0 and len(web.requests) % 2:
            usual = web.usual(request)
            return dataclasses.replace(usual, sent=len(usual.body) // 2, ending="close")
        return None

    web.rule = rule
    assert Active(f"{web.url}/x.h5", "x").count() == 1200


def test_a_first_answer_that_is_shorter_than_it_says(web):
    web.rule = lambda _: Reply(206, {"Content-Range": "bytes 0-65535/300000"}, CONTENT[:1000])
    refused(f"{web.url}/a", "x", match="gives 1000 bytes where 65536 belong")


@pytest.mark.parametrize("said", ["bytes 0-65535/*", "", "bytes 0-65535/many"])
def test_a_server_that_does_not_say_how_large_a_file_is(web, said):
    def rule(request):
        if request.range is None:
            return None if knows else Reply(405)
        reply = ranged(request, web.files[request.path], {})
        place = said.replace("0-65535", reply.headers["Content-Range"].split()[1].partition("/")[0])
        return Reply(206, {"Content-Range": place} if said else {}, reply.body)

    web.rule = rule
    knows = True
    assert Active(f"{web.url}/x.h5", "x").sum() == pytest.approx(numbers(0).sum(dtype="f8"))
    knows = False
    refused(f"{web.url}/x.h5", "x", match="does not tell how large the file is")


def test_a_server_that_refuses_head(web):
    web.rule = lambda request: Reply(405) if request.method == "HEAD" else None
    for _ in range(2):
        assert Active(f"{web.url}/x.h5", "x").count() == 1200


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 500, 501])
def test_a_server_that_knows_no_head(web, status):
    """Addresses that are signed for GET, and whatever makes its answers up as it goes."""
    web.rule = lambda request: Reply(status) if request.method == "HEAD" else None
    for _ in range(2):  # with metadata in the index cache, too
        active = Active(f"{web.url}/x.h5", "x")
        assert active.sum() == pytest.approx(numbers(0).sum(dtype="f8"))
    del web.files["/x.h5"]
    with pytest.raises(SourceNotFoundError):
        active.sum()


@pytest.mark.parametrize(
    "head",
    [
        Reply(200, {"ETag": '"another"'}, b"x" * 300_000),
        Reply(200, {}, b"x" * 7),
        Reply(200, {"Content-Length": "0"}),
        Reply(200, {}, length=False),
        Reply(403),
        Reply(500),
    ],
)
def test_a_server_that_answers_head_otherwise_than_get(web, head):
    web.rule = lambda request: head if request.method == "HEAD" else None
    for _ in range(3):
        assert Active(f"{web.url}/x.h5", "x").sum() == pytest.approx(numbers(0).sum(dtype="f8"))


@pytest.mark.parametrize("status", [200, 206, 416])
def test_an_empty_file(web, status):
    web.files["/empty"] = b""
    if status != 416:
        web.rule = lambda _: Reply(status, {"Content-Range": "bytes */0"} if status == 206 else {})
    refused(f"{web.url}/empty", "x", match="it is empty")


def test_there_is_nothing(web):
    refused(f"{web.url}/no.nc", "x", match=r"no\.nc: there is nothing at this address; check", kind=SourceNotFoundError)
    web.rule = lambda _: Reply(410)
    refused(f"{web.url}/a", "x", match="there is nothing at this address", kind=SourceNotFoundError)
    web.rule = lambda _: None
    source = open_source(f"{web.url}/a")
    del web.files["/a"]
    for read in (source.current_version, lambda: source.read_ranges([(0, 5)])):
        with pytest.raises(SourceNotFoundError):
            read()


def test_something_else_is_there(web):
    web.files["/page"] = b"<!DOCTYPE html><title>Log in</title>"
    refused(f"{web.url}/page", "x", match=r"is neither netCDF nor HDF5 \(it starts with b'<!DOCTYP'\)")


@pytest.mark.parametrize("status", [401, 403])
def test_access_is_denied(web, status):
    web.rule = lambda _: Reply(status)
    refused(f"{web.url}/x.h5", "x", match=rf"access is denied \({status} ?\); check the credentials in storage_options")
    assert len(web.requests) == 1


def test_a_server_that_fails_for_a_while_and_one_that_fails_for_good(web):
    failures = [Reply(500), RESET, Reply(503), Reply(429)]
    web.rule = lambda _: failures.pop() if failures and len(web.requests) > 2 else None
    assert Active(f"{web.url}/x.h5", "x").count() == 1200
    assert failures == []
    web.rule = lambda _: Reply(503)
    refused(f"{web.url}/x.h5", "x", match="the server answers 503; try again later")
    web.rule = lambda _: Reply(501)
    refused(f"{web.url}/x.h5", "x", match="the server answers 501; check the address and storage_options")


def test_a_server_that_is_slow(web, monkeypatch):
    monkeypatch.setattr(http_source, "HttpOptions", functools.partial(transport.HttpOptions, read_timeout=0.1, retries=1))
    web.rule = lambda request: Reply(after=0.5) if request.range is None or request.range[0] else None
    refused(f"{web.url}/x.h5", "x", match="no answer within the time limit")


def test_where_there_is_no_server():
    refused("http://127.0.0.1:1/x.h5", "x", match="nothing listens there; check the address and whether the server runs")
    refused("http://no-such-host.invalid/x.h5", "x", match="there is no host of that name")


def test_a_plain_server_for_an_https_address(web):
    said = refused(f"https://{web.address}/x.h5", "x", match=r"is it a plain http:// server\?")
    assert said.count(web.address) == 1


@pytest.mark.parametrize(
    "uri", ["http:///a.nc", "https://", "http://:80/a", "http://[::1/a.nc", "http://host:port/a", "http://h:0/a"]
)
def test_an_address_without_a_host(uri):
    refused(uri, "x", match="is no address of a web server; write https://host/path", kind=ConfigurationError)


@pytest.mark.parametrize(
    "name", ["a b.nc", "a+b.nc", "100%.nc", "é€.nc", "a%20b.nc", "a&b=c;d.nc", "(a)[b].nc", "~a'.nc", 'a"b.nc']
)
def test_names_with_what_addresses_do_not_take_as_it_is(web, name):
    from urllib.parse import quote

    web.files[f"/folder/{name}"] = chunked(0)
    assert Active(f"{web.url}/folder/{quote(name)}", "x").count() == 1200
    if "%" not in name:
        assert Active(f"{web.url}/folder/{name}", "x").count() == 1200


def test_queries_are_sent_and_fragments_are_not(web):
    web.files["/get"] = chunked(0)
    assert Active(f"{web.url}/get?file=x.h5&page=2#mode=bytes", "x").count() == 1200
    assert set(web.asked) == {"GET /get?file=x.h5&page=2", "HEAD /get?file=x.h5&page=2"}
    assert repr(Active(f"HTTP://{web.address}/x.h5", "x")).startswith("<Active 'x' (dim_0: 40, dim_1: 30) float32 of HTTP://")


# Versions


def test_a_run_refuses_a_file_that_has_changed_since(web):
    for tag in (None, 'W/"weak"', "", "unquoted"):
        web.headers = {} if tag is None else {"ETag": tag}
        web.files["/x.h5"] = chunked(0)
        active = Active(f"{web.url}/x.h5", "x")
        assert active.count() == 1200
        web.files["/x.h5"] = chunked(1) + bytes(9999 * (tag == ""))
        web.headers = {"ETag": tag + "2" if tag else tag} if tag is not None else {}
        for stale in (active, pickle.loads(pickle.dumps(active))):
            with pytest.raises(SourceError, match="has changed since it was opened; make a new Active of it"):
                stale.sum()
        assert Active(f"{web.url}/x.h5", "x").sum() == pytest.approx(numbers(1).sum(dtype="f8"))


def test_a_file_that_changes_in_the_middle_of_a_run(web, monkeypatch):
    monkeypatch.setattr("activestore.core.dispatch._BATCH_TASKS", 1)
    for tags in ((), ("W/1", "W/2"), ("", "")):
        web.files["/x.h5"], web.headers = chunked(0), {"ETag": tags[0]} if tags else {}
        active = Active(f"{web.url}/x.h5", "x")
        begun = len(web.requests)

        def rule(_, tags=tags, begun=begun):
            if len(web.requests) == begun + 2:
                web.files["/x.h5"] = chunked(1) + b"longer"
                web.headers = {"ETag": tags[1]} if tags else {}

        web.rule = rule
        with pytest.raises(SourceError, match="has changed since it was opened"):
            active.mean()
        web.rule = lambda _: None


def of_nodes(web, tags, *, modified=("Mon, 01 Jan 2024 00:00:00 GMT",), matches=False):
    """Let each connection lead to another server, with an ETag of its own for the same file."""
    turn = itertools.count()
    mine = threading.local()

    def rule(request):
        if not hasattr(mine, "node"):
            mine.node = next(turn)
        tag = tags[mine.node % len(tags)]
        if matches and request.headers.get("If-Match", tag) != tag:
            return Reply(412)
        headers = {name: value for name, value in request.headers.items() if name != "If-Match"}
        usual = ranged(dataclasses.replace(request, headers=headers), web.files[request.path], {})
        return dataclasses.replace(
            usual,
            headers={**usual.headers, "ETag": tag, "Last-Modified": modified[mine.node % len(modified)]},
            ending="close" if request.headers.get("Connection") == "close" else "keep",
        )

    web.rule = rule


@pytest.mark.parametrize("matches", [False, True])
@pytest.mark.parametrize("tags", [('"a-1"', '"b-1"'), ('"a"', '"b"', 'W/"c"')])
def test_servers_behind_one_address_with_tags_of_their_own(web, tags, matches):
    of_nodes(web, tags, matches=matches)
    for _ in range(3):
        active = Active(f"{web.url}/x.h5", "x")
        # Every other chunk, so that many connections are made.
        assert active[np.arange(40) // 4 % 2 == 0].sum() == pytest.approx(
            numbers(0)[np.arange(40) // 4 % 2 == 0].sum(dtype="f8")
        )
        with ThreadPoolExecutor(8) as pool:
            ranges = [(at, 100) for at in range(0, 200_000, 30_000)]
            assert list(pool.map(active._source._read, ranges)) == [web.files["/x.h5"][at : at + 100] for at, _ in ranges]


def test_servers_behind_one_address_with_other_files_are_refused(web):
    of_nodes(web, ('"a"', '"b"'), modified=("Mon, 01 Jan 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:01 GMT"))
    source = open_source(f"{web.url}/x.h5")
    with pytest.raises(SourceError, match="has changed since it was opened"), ThreadPoolExecutor(8) as pool:
        list(pool.map(source._read, [(at, 100) for at in range(0, 200_000, 10_000)]))


def test_a_tag_that_changes_for_good_is_another_version(web):
    tag = ['"a"']
    web.headers = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    web.rule = lambda _: web.headers.update(ETag=tag[0])
    source = open_source(f"{web.url}/x.h5")
    tag[0] = '"b"'
    with pytest.raises(SourceError, match="has changed since it was opened"):
        source.read_ranges([(100_000, 10)])
    assert source.current_version() == '"b"'


def test_the_user_names_what_the_version_is(web, monkeypatch):
    monkeypatch.setenv("ACTIVESTORE_CACHE", "off")
    states = {"tag": '"a"', "time": "Mon, 01 Jan 2024 00:00:00 GMT"}
    web.rule = lambda _: web.headers.update({"ETag": states["tag"], "Last-Modified": states["time"]})
    changes = {"tag": '"b"', "time": "Mon, 01 Jan 2024 00:00:09 GMT"}
    noticed = {"etag": {"tag"}, "time": {"time"}, "size": set(), "none": set()}
    for way, names in noticed.items():
        for name, other in changes.items():
            before = states[name]
            active = Active(f"{web.url}/x.h5", "x", storage_options={"version": way})
            states[name] = other
            if name in names:
                with pytest.raises(SourceError, match="has changed since it was opened"):
                    active.sum()
            else:
                assert active.sum() == pytest.approx(numbers(0).sum(dtype="f8"))
            states[name] = before
        active = Active(f"{web.url}/x.h5", "x", storage_options={"version": way})
        web.files["/x.h5"] += b"more"
        if way in ("time", "size"):
            with pytest.raises(SourceError, match="has changed since it was opened"):
                active.sum()
        web.files["/x.h5"] = chunked(0)
    with pytest.raises(ConfigurationError, match="version='tag': give one of 'etag', 'time', 'size', 'none'"):
        open_source(f"{web.url}/x.h5", {"version": "tag"})


@pytest.mark.parametrize("way", ["size", "none"])
def test_metadata_of_a_version_that_says_little_are_not_kept(web, way):
    Active(f"{web.url}/x.h5", "x", storage_options={"version": way}).sum()
    assert default_cache().entries() == []


def test_nothing_is_known_of_the_version_but_the_size(web):
    web.headers = {"ETag": "", "Last-Modified": ""}
    source = open_source(f"{web.url}/a")
    assert source.current_version() == source.version
    web.files["/a"] += b"longer"
    assert source.current_version() != source.version


# The index cache


def test_the_second_open_costs_one_request(web):
    url = f"{web.url}/x.h5"
    wanted = Active(url, "x")[:8].mean()
    web.requests.clear()
    again = Active(url, "x")
    assert web.asked == ["HEAD /x.h5"]
    again[:8].plan("mean")
    assert web.asked == ["HEAD /x.h5"]
    assert again[:8].mean() == wanted
    assert web.asked[-1] == "HEAD /x.h5"
    (entry,) = default_cache().entries()
    assert entry.uri == url
    # Other chunks need other nodes of the index, which are kept then.
    again.mean()
    web.requests.clear()
    Active(url, "x").plan("mean")
    assert web.asked == ["HEAD /x.h5"]


@pytest.mark.parametrize("tags", [(None, None), ('W/"1"', 'W/"2"'), ("", "")])
def test_a_file_that_was_overwritten_is_read_anew(web, tags):
    url, contents = f"{web.url}/x.h5", (chunked(0), chunked(2) + b"longer")
    for _ in range(2):
        for tag, content, seed in zip(tags, contents, (0, 2), strict=True):
            web.files["/x.h5"], web.headers = content, {} if tag is None else {"ETag": tag}
            for _ in range(2):
                np.testing.assert_array_equal(Active(url, "x").read(), numbers(seed))


def test_a_damaged_cache_and_none_at_all(web, monkeypatch):
    url = f"{web.url}/x.h5"
    Active(url, "x").mean()
    (file,) = default_cache().folder.iterdir()
    file.write_bytes(file.read_bytes()[:-100] + bytes(100))
    np.testing.assert_array_equal(Active(url, "x").read(), numbers(0))
    monkeypatch.setenv("ACTIVESTORE_CACHE", "off")
    web.requests.clear()
    np.testing.assert_array_equal(Active(url, "x").read(), numbers(0))
    assert web.asked[0] == "GET /x.h5"


def test_a_file_that_changes_while_its_index_is_read_does_not_stay_in_the_cache(web):
    url, web.headers = f"{web.url}/x.h5", {"ETag": 'W/"1"'}
    active = Active(url, "x")
    web.files["/x.h5"], web.headers = chunked(1)[:250_000] + chunked(1)[250_000:], {"ETag": 'W/"2"'}
    with pytest.raises(SourceError):
        active.sum()
    web.files["/x.h5"], web.headers = chunked(0), {"ETag": 'W/"1"'}
    np.testing.assert_array_equal(Active(url, "x").read(), numbers(0))


# Redirects and credentials


def test_redirects_are_followed_and_remembered(web):
    web.rule = lambda request: (
        Reply(301, {"Location": "/b/x.h5"})
        if request.path == "/x.h5"
        else Reply(307, {"Location": "../real.h5"})
        if request.path == "/b/x.h5"
        else None
    )
    web.files["/real.h5"] = chunked(0)
    assert Active(f"{web.url}/x.h5", "x").count() == 1200
    assert web.asked[:3] == ["GET /x.h5", "GET /b/x.h5", "GET /real.h5"]
    assert web.asked.count("GET /x.h5") == 1


@pytest.mark.parametrize(
    "place", ["/x.h5", "http://[::1", "ftp://elsewhere.example/x.h5", "file:///etc/passwd", "http://h:port/"]
)
def test_redirects_that_lead_nowhere(web, place):
    web.rule = lambda _: Reply(302, {"Location": place})
    refused(f"{web.url}/x.h5", "x", match="is redirected")
    assert len(web.requests) <= 6


def test_a_redirect_that_is_good_for_a_while(web):
    """As to presigned addresses: when it is refused, the server is asked for a new one."""
    web.files["/signed"], good = chunked(0), ["1"]

    def rule(request):
        path, _, signature = request.path.partition("?")
        if path == "/x.h5":
            return Reply(302, {"Location": f"/signed?{good[0]}"})
        return None if signature == good[0] else Reply(403)

    web.rule = rule
    active = Active(f"{web.url}/x.h5", "x")
    good[0] = "2"
    assert active.mean() == pytest.approx(numbers(0).mean(dtype="f8"))
    assert web.asked.count("GET /x.h5") < 12
    web.rule = lambda request: Reply(302, {"Location": "/signed"}) if request.path == "/x.h5" else Reply(403)
    refused(f"{web.url}/x.h5", "x", match="access is denied")
    with pytest.raises(SourceError, match="access is denied"):
        active.mean()


def logging_in(web, *, path="/", attributes="", seen=None):
    """Let a server redirect those without its cookie to a login, which sets it and redirects back."""

    def rule(request):
        cookie = request.headers.get("Cookie", "")
        if seen is not None:
            seen.append(cookie)
        if request.path.startswith("/login"):
            headers = {"Location": request.path.partition("?")[2], "Set-Cookie": f"session=hunter2; Path={path}{attributes}"}
            return Reply(302, headers)
        return None if "session=hunter2" in cookie else Reply(302, {"Location": f"/login?{request.path}"})

    web.rule = rule


def test_a_cookie_that_a_redirect_sets_is_sent_from_then_on(web):
    seen = []
    logging_in(web, seen=seen)
    active = Active(f"{web.url}/x.h5", "x")
    assert active.sum() == pytest.approx(numbers(0).sum(dtype="f8"))
    assert active[::2, ::5].count() == 20 * 6
    assert seen[:2] == ["", ""]
    assert set(seen[2:]) == {"session=hunter2"}
    assert sum(request.path.startswith("/login") for request in web.requests) == 1
    for text in (repr(active._source), pickle.dumps(active).decode("latin-1"), repr(active.run("sum"))):
        assert "hunter2" not in text
    # Another opening is another session.
    assert Active(f"{web.url}/x.h5", "x").count() == 1200
    assert sum(request.path.startswith("/login") for request in web.requests) == 2


def test_cookies_go_beside_those_of_the_user_and_to_who_set_them_only(web):
    seen = []
    logging_in(web, seen=seen)
    options = {"headers": {"cookie": "mine=1"}}
    assert Active(f"{web.url}/x.h5", "x", storage_options=options).count() == 1200
    assert seen[0] == "mine=1"
    assert seen[-1] == "mine=1; session=hunter2"
    with WebStandIn() as other:
        other.files["/x.h5"] = web.files["/x.h5"]
        rule = web.rule
        web.rule = lambda request: (
            rule(request) or Reply(302, {"Location": f"{other.url.replace('127.0.0.1', 'localhost')}/x.h5"})
        )
        assert Active(f"{web.url}/x.h5", "x").count() == 1200
        assert other.requests
        assert not [request for request in other.requests if "Cookie" in request.headers]


@pytest.mark.parametrize("attributes", ["; Secure", "; Domain=elsewhere.example"])
def test_cookies_that_are_not_for_this_server_are_not_sent(web, attributes):
    logging_in(web, attributes=attributes)
    refused(f"{web.url}/x.h5", "x", match="is redirected again and again")


def test_cookies_have_an_end(web):
    numbered = iter(range(10_000))
    web.rule = lambda request: dataclasses.replace(
        web.usual(request), headers={**web.usual(request).headers, "Set-Cookie": f"n{next(numbered)}=1"}
    )
    active = Active(f"{web.url}/x.h5", "x")
    for _ in range(70):
        active._source.current_version()
    assert len(web.requests[-1].headers["Cookie"]) < 1000


def test_credentials_are_not_sent_to_another_host(web):
    with WebStandIn() as other:
        other.files["/x.h5"] = chunked(0)
        web.rule = lambda request: Reply(302, {"Location": f"{other.url}/x.h5"}) if request.path == "/x.h5" else None
        options = {"headers": {"Authorization": "Bearer hunter2", "X-Key": "hunter2"}}
        active = Active(f"{web.url}/x.h5", "x", storage_options=options)
        with ThreadPoolExecutor(8) as pool:
            assert {pool.submit(active.count).result() for _ in range(8)} == {1200}
        assert web.requests[0].headers["Authorization"] == "Bearer hunter2"
        assert len(other.requests) > 3
        assert not [one for one in other.requests if "hunter2" in str(dict(one.headers.items()))]


@pytest.mark.parametrize(
    ("url", "own", "may"),
    [
        ("https://host/b", "https://host/a", True),
        ("https://host/b", "http://host/a", True),
        ("https://HOST/b", "http://host/a", True),
        ("http://host/b", "https://host/a", False),
        ("https://host:444/b", "https://host/a", False),
        ("https://host:444/b", "http://host/a", False),
        ("https://host/b", "http://host:8080/a", False),
        ("https://host.evil/b", "https://host/a", False),
        ("https://host@evil/b", "https://host/a", False),
    ],
)
def test_who_gets_the_credentials(url, own, may):
    assert http_source._may_have_credentials(url, own) == may


@pytest.mark.parametrize(
    ("login", "sent"),
    [("me:hunter%402", "me:hunter@2"), ("me", "me:"), ("me:", "me:"), (":hunter2", ":hunter2"), ("m%C3%A9:a%2Fb", "mé:a/b")],
)
def test_user_and_password_in_the_address(web, login, sent):
    active = Active(f"http://{login}@{web.address}/x.h5", "x")
    assert active.count() == 1200
    for request in web.requests:
        assert base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode() == sent
    origin = active._source.origin
    assert (origin.user, origin.password or "", origin.url) == (*sent.split(":"), f"{web.url}/x.h5")


@pytest.mark.parametrize("options", [{"headers": {"X-Mine": "here"}}, {"client_kwargs": {"headers": {"X-Mine": "here"}}}])
def test_headers_of_ones_own(web, options):
    assert Active(f"{web.url}/x.h5", "x", storage_options=options).count() == 1200
    assert {request.headers["X-Mine"] for request in web.requests} == {"here"}


def test_secrets_appear_nowhere(web, caplog, own_index_cache):
    caplog.set_level(logging.DEBUG)
    web.files["/x"] = chunked(0)
    uri = f"http://me:hunter%402@{web.address}/x?X-Amz-Signature=wJalr-signature&part=1"
    options = {
        "headers": {"Authorization": "Bearer hunter2", "Cookie": "hunter2"},
        "client_kwargs": {"headers": {"X-Token": "hunter2"}},
    }
    active = Active(uri, "x", storage_options=options)
    assert active.count() == 1200
    assert web.requests[0].path == "/x?X-Amz-Signature=wJalr-signature&part=1"
    told = [repr(active), str(active), active._repr_html_(), str(active.explain()), str(active.run("mean").report)]
    source = active._source
    told += [repr(source), source.uri, repr(source.origin), repr(active.variable), repr(source._target), source.version]
    told += [pickle.dumps(one).decode("latin-1") for one in (active, active[0], source, active.run("mean").report)]
    web.rule = lambda _: Reply(403)
    with pytest.raises(SourceError) as caught:
        pickle.loads(pickle.dumps(active)).sum()
    told.append(shown(caught.value))
    for rule in (
        lambda _: Reply(403),
        lambda _: RESET,
        lambda _: Reply(302, {"Location": "/x"}),
        lambda _: Reply(206),
        lambda _: Reply(500, body=b"hunter2"),
    ):
        web.rule = rule
        for read in (active.mean, lambda: Active(uri, "x", storage_options=options)):
            with pytest.raises(SourceError) as caught:
                read()
            told.append(shown(caught.value))
    for wrong in (
        "http://me:hunter2@:80/x?sig=hunter2",
        "http://me:hunter2@h:port/x",
        "http://me:hunter2@127.0.0.1:1/x?sig=hunter2",
    ):
        with pytest.raises((SourceError, ConfigurationError)) as caught:
            open_source(wrong)
        told.append(shown(caught.value))
    told.append(caplog.text)
    told += [file.read_bytes().decode("latin-1") for file in own_index_cache.rglob("*") if file.is_file()]
    assert len(told) > 25
    for text in told:
        assert not [secret for secret in SECRETS if secret in text], text
    assert "GET /x HTTP" in caplog.text


@pytest.mark.parametrize(
    "password", ["hunter 2", "hunter\n2", "hunter/2", "hunter?2", "hunter#2", "hunter%2", "h\u00fcnter'2\"", "hunter2"]
)
def test_a_password_as_it_is_is_sent_and_not_seen(web, caplog, capsys, password):
    caplog.set_level(logging.DEBUG)
    active = Active(f"http://me:{password}@{web.address}/x.h5?code=hunter", "x")
    result = active.run("sum")
    assert result.value == pytest.approx(numbers(0).sum(dtype="f8"))
    sent = web.requests[0]
    assert base64.b64decode(sent.headers["Authorization"].removeprefix("Basic ")).decode() == f"me:{password}"
    assert sent.path == "/x.h5?code=hunter"
    seen = [repr(active), active._repr_html_(), repr(result), result._repr_html_(), str(active.explain()), repr(active._source)]
    seen += [pickle.dumps(one).decode("latin-1") for one in (active, result, list(active.plan("sum").tasks()))]
    web.rule = lambda _: Reply(404)
    for address in (f"http://me:{password}@{web.address}/none.nc?code=hunter", f"http://me:{password}@127.0.0.1:1/a"):
        with pytest.raises(SourceError) as caught:
            Active(address, "x")
        seen.append(shown(caught.value))
        assert cli.main(["inspect", address]) == 1
        seen += capsys.readouterr()
    seen.append(caplog.text)
    assert [line for text in seen for line in text.splitlines() if "unter" in line] == []


@pytest.mark.parametrize("password", ["hun@ter/2", "hun/ter@2", "hun?ter@2", "12/hun@ter"])
def test_a_password_that_cannot_be_told_apart_is_not_sent(web, password):
    with pytest.raises(ConfigurationError, match="of a password, write @ as %40, / as %2F") as caught:
        Active(f"http://me:{password}@{web.address}/x.h5", "x")
    assert not [part for part in ("hun", "ter") if part in shown(caught.value).partition(": is")[0]]
    assert web.requests == []


def test_a_pickle_finds_the_file_again_without_the_signature(web):
    web.files["/x"] = chunked(0)
    active = Active(f"{web.url}/x?part=1&X-Amz-Signature=wJalr-signature", "x")
    assert pickle.loads(pickle.dumps(active)).count() == 1200
    assert web.requests[-1].path == "/x?part=1"


def test_the_proxy_of_the_environment(web, monkeypatch):
    with WebStandIn() as proxy:
        proxy.rule = lambda request: ranged(request, chunked(0), {"ETag": '"1"'})
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert Active("http://data.example/x.h5", "x").count() == 1200
        assert proxy.asked[0] == "GET http://data.example/x.h5"
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert Active(f"{web.url}/x.h5", "x").count() == 1200
        assert "HEAD /x.h5" in web.asked


# Resources


def test_nothing_is_left_behind(web):
    before = threading.active_count()
    active = Active(f"{web.url}/x.h5", "x")
    active.mean()
    with contextlib.suppress(SourceError):
        web.rule = lambda _: Reply(404)
        active.mean()
    del active
    gc.collect()
    for _ in range(500):
        if threading.active_count() <= before:
            break
        threading.Event().wait(0.01)
    assert threading.active_count() <= before


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("batch", [64, 1])
def test_ctrl_c_does_not_wait_for_a_server_that_stalls(web, monkeypatch, batch):
    monkeypatch.setattr("activestore.backends.posix._OVER_NETWORK", Capabilities(through_hdf5=True, workers=16, batch=batch))
    active, stalled = Active(f"{web.url}/x.h5", "x"), threading.Event()
    active.plan("mean")
    web.rule = lambda _: stalled.wait(20) and None

    def interrupt():
        while not web.under_way:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    started = time.perf_counter()
    try:
        with pytest.raises(KeyboardInterrupt):
            active.mean()
        assert time.perf_counter() - started < 5
    finally:
        stalled.set()
        thread.join()
    assert [one.name for one in threading.enumerate() if one.name.startswith("activestore")] == []
    assert active.count() == 1200, "it can be used again"


def test_a_run_that_fails_leaves_others_that_share_the_source_alone(web):
    active, stalled, begun = Active(f"{web.url}/x.h5", "x"), threading.Event(), threading.Event()

    def first_waits(_request):
        if not begun.is_set():
            begun.set()
            stalled.wait(10)

    def failing(_values, _axes):
        raise ValueError("not today")

    web.rule = first_waits
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(active.count)
        try:
            assert begun.wait(10)
            own = Reduction.from_functions("own", chunk=failing, combine=max, finalize=lambda state, _: state)
            with pytest.raises(ValueError, match="not today"):
                active.run(own)
        finally:
            stalled.set()
        assert future.result() == 1200


# The command line


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/no.nc", "there is nothing at this address; check the address"),
        ("/page", "is neither netCDF nor HDF5"),
        ("/denied", "access is denied (403 ); check the credentials"),
    ],
)
def test_errors_on_the_command_line_are_one_line(web, capsys, path, said):
    web.files["/page"] = b"<html>"
    web.rule = lambda request: Reply(403) if request.path == "/denied" else None
    for command in (["inspect", f"{web.url}{path}"], ["reduce", f"{web.url}{path}", "x"]):
        assert cli.main(command) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith(f"activestore: error: {web.url}{path}: ")
        assert said in printed.err
        assert printed.err.count("\n") == 1


def test_the_command_line_reads_addresses(web, capsys, tmp_path):
    (tmp_path / "x.h5").write_bytes(chunked(0))
    shown_of = []
    for uri in (f"{web.url}/x.h5", str(tmp_path / "x.h5")):
        assert cli.main(["inspect", uri, "x"]) == cli.main(["inspect", uri]) == cli.main(["reduce", uri, "x"]) == 0
        assert cli.main(["reduce", uri, "x", "--explain", "--select", "0=3"]) == 0
        text = capsys.readouterr().out.replace(uri, "FILE")
        shown_of.append([line for line in text.splitlines() if not line.startswith("  time ")])
    assert shown_of[0] == shown_of[1]
