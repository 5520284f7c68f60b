"""Files in a real S3 store and behind a real web server: credentials, names, numbers, and what metadata cost over a line."""

import logging
import os
import pickle
import shutil
import tempfile
import time
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import s3fs
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings

from activestore import Active
from activestore.cli import main as cli
from activestore.core.reductions import REDUCTIONS
from activestore.errors import ConfigurationError, SourceError, SourceNotFoundError, SumOverflowError
from activestore.network import http_client as transport
from activestore.sources import s3
from activestore.sources.fsspec_file import FsspecSource
from activestore.sources.http import HttpSource
from activestore.sources.metadata_cache import default_cache
from activestore.sources.open import open_source
from tests import generated
from tests.generated import NAME, Recipe, recipes
from tests.real.line import CLOSED_HALFWAY, RESET, answered

pytestmark = pytest.mark.real

LONG_AGO = 1_600_000_000
"""A file that was written this second is not kept in the index cache: it could be written again unseen."""


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No settings of AWS or fsspec, nor a proxy."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "FSSPEC_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setattr(s3, "conf", {})


def write(path, content):
    """Write a file as one that has been there for long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.fixture(scope="module")
def small():
    """A file with `x(6, 8)`: the numbers from 0 to 47 in four chunks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.h5")
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=np.arange(48.0).reshape(6, 8), chunks=(3, 4), compression="gzip")
        return path.read_bytes()


@pytest.fixture
def uri(s3_store, small):
    write(s3_store.folder / "remote" / "x.h5", small)
    return f"s3://{s3_store.bucket}/remote/x.h5"


# S3


def test_credentials_in_every_form(s3_store, uri, monkeypatch, tmp_path):
    key, secret, url = s3_store.key, s3_store.secret, s3_store.url
    client = {"aws_access_key_id": key, "aws_secret_access_key": secret, "endpoint_url": url, "region_name": "us-east-1"}
    for options in (s3_store.storage_options, {"key": key, "secret": secret, "endpoint_url": url}, {"client_kwargs": client}):
        active = Active(uri, "x", storage_options=options)
        assert isinstance(active._source, HttpSource)
        assert active.sum() == 1128
    monkeypatch.setattr(s3, "conf", {"s3": {"key": key, "secret": secret, "endpoint_url": url}})
    assert Active(uri, "x").sum() == 1128
    monkeypatch.setattr(s3, "conf", {})
    (tmp_path / "credentials").write_text(f"[mine]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n")
    (tmp_path / "config").write_text(f"[profile mine]\nendpoint_url = {url}\nregion = us-east-1\n")
    profiled = Active(uri, "x", storage_options={"profile": "mine"})
    assert profiled.sum() == pickle.loads(pickle.dumps(profiled)).sum() == 1128
    for name, value in (("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret), ("AWS_ENDPOINT_URL", url)):
        monkeypatch.setenv(name, value)
    from_environment = Active(uri, "x")
    assert from_environment.sum() == pickle.loads(pickle.dumps(from_environment)).sum() == 1128
    assert pickle.loads(pickle.dumps(Active(uri, "x", storage_options=s3_store.storage_options))).sum() == 1128


def test_patterns_and_prefixes(s3_store, small, tmp_path):
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file.create_dataset("x", data=np.arange(16.0).reshape(2, 8))
    write(s3_store.folder / "series" / "b.h5", small)
    write(s3_store.folder / "series" / "a.h5", (tmp_path / "y.h5").read_bytes())
    write(s3_store.folder / "series" / "c.txt", b"no data")
    for name in ("*.h5", "[ab].h5", ""):
        active = Active(f"s3://{s3_store.bucket}/series/{name}", "x", storage_options=s3_store.storage_options)
        assert [file.rpartition("/")[2] for file in active.files] == ["a.h5", "b.h5"]
        assert (active.shape, active.sum(), active[2:].sum()) == ((8, 8), 1128 + 120, 1128)


def test_fsspec_s_variables(s3_store, uri):
    import subprocess
    import sys

    environment = {
        **os.environ,
        "FSSPEC_S3_KEY": s3_store.key,
        "FSSPEC_S3_SECRET": s3_store.secret,
        "FSSPEC_S3_ENDPOINT_URL": s3_store.url,
    }
    command = [sys.executable, "-m", "activestore", "reduce", uri, "x", "--op", "sum", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert '"values": {"sum": 1128.0}' in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"secret": "wrong"}, SourceError, "access is denied (403 SignatureDoesNotMatch); check the credentials"),
        ({"key": "wrong"}, SourceError, "(XAdmin"),
        ({"token": "wrong"}, SourceError, "access is denied (40"),
        ({"key": None, "secret": None, "anon": True}, SourceError, "access is denied (403 AccessDenied)"),
        ({"key": None, "secret": None}, ConfigurationError, "there are no credentials for it"),
        ({"key": None}, ConfigurationError, "one of 'key' and 'secret'"),
        ({"client_kwargs": {"endpoint_url": "127.0.0.1:7"}}, ConfigurationError, "its endpoint_url is no address"),
        ({"client_kwargs": {"endpoint_url": "http://127.0.0.1:1"}}, SourceError, "nothing listens there"),
    ],
)
def test_credentials_that_are_wrong(s3_store, uri, capsys, change, kind, message):
    options = {name: value for name, value in {**s3_store.storage_options, **change}.items() if value is not None}
    with pytest.raises(kind) as caught:
        Active(uri, "x", storage_options=options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "wrong" not in str(caught.value)


def test_the_command_line(s3_store, uri, capsys):
    options = {"key": s3_store.key, "secret": s3_store.secret, "endpoint_url": s3_store.url}
    given = [f"--storage-option={name}={value}" for name, value in options.items()]
    assert cli.main(["reduce", uri, "x", "--op", "sum", *given]) == 0
    assert "1128" in capsys.readouterr().out
    for wrong in ([*given, "--storage-option=secret=wrong"], given[:2], []):
        assert cli.main(["inspect", uri, *wrong]) != 0
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == ("", 1)
        assert printed.err.startswith("activestore: error: ")
        assert s3_store.secret not in printed.err


@pytest.mark.parametrize(
    ("address", "message"),
    [("s3://nosuchbucket/x.h5", "there is no such bucket"), ("s3://{}/no.h5", "there is no such key"), ("s3://{}/remote", ".")],
)
def test_what_is_not_there(s3_store, uri, address, message):
    with pytest.raises(SourceError, match=message) as caught:
        Active(address.format(s3_store.bucket), "x", storage_options=s3_store.storage_options)
    if message != ".":
        assert isinstance(caught.value, SourceNotFoundError)


@pytest.mark.parametrize(
    "name",
    [
        "a b.h5",
        "a+b.h5",
        "100%.h5",
        "a%20b.h5",
        "é€ü.h5",
        "a#b.h5",
        "a?b=c&d.h5",
        "a@b:c;d,e.h5",
        "(a)[b]'!.h5",
        "~-_.h5",
        "a=b.h5",
    ],
)
def test_names_of_keys(s3_store, small, name):
    write(s3_store.folder / "names" / name, small)
    active = Active(f"s3://{s3_store.bucket}/names/{name}", "x", storage_options=s3_store.storage_options)
    assert active.sum() == 1128
    assert active._source.uri == f"s3://{s3_store.bucket}/names/{name}"


@pytest.mark.parametrize(
    "option",
    [
        {"config_kwargs": {"s3": {"addressing_style": "path"}, "retries": {"max_attempts": 2}}},
        {"requester_pays": True},
        {"default_cache_type": "none", "cache_regions": False},
    ],
)
def test_options_that_only_s3fs_understands(s3_store, uri, option):
    active = Active(uri, "x", storage_options=s3_store.storage_options | option)
    assert isinstance(active._source, FsspecSource)
    assert (active.sum(), active[1:, ::2].max()) == (1128, 46)
    os.utime(s3_store.folder / "remote" / "x.h5")
    with pytest.raises(SourceError, match="has changed since it was opened"):
        active.sum()


def test_keys_with_dots_between_slashes_are_left_to_s3fs(s3_store, uri):
    """HTTP clients take the dots out, so that the signature is of another key."""
    active = Active(uri.replace("/remote/", "/remote/./"), "x", storage_options=s3_store.storage_options)
    assert isinstance(active._source, FsspecSource)


def test_an_object_that_is_overwritten(s3_store, small):
    """Put through S3, it has an ETag."""
    files = s3fs.S3FileSystem(**s3_store.storage_options, skip_instance_cache=True)
    files.pipe_file(f"{s3_store.bucket}/put.h5", small)
    os.utime(s3_store.folder / "put.h5", (LONG_AGO, LONG_AGO))
    address = f"s3://{s3_store.bucket}/put.h5"
    active = Active(address, "x", storage_options=s3_store.storage_options)
    assert active._source.version.startswith('"')
    assert active.sum() == Active(address, "x", storage_options=s3_store.storage_options).sum() == 1128
    with tempfile.TemporaryDirectory() as folder:
        with h5py.File(Path(folder, "x.h5"), "w") as file:
            file.create_dataset("x", data=np.full((60, 8), 2.0), chunks=(3, 4), compression="gzip")
        files.pipe_file(f"{s3_store.bucket}/put.h5", Path(folder, "x.h5").read_bytes())
    with pytest.raises(SourceError, match="has changed since it was opened"):
        active.sum()
    assert Active(address, "x", storage_options=s3_store.storage_options).sum() == 960


def test_secrets_are_not_logged(s3_store, uri, caplog):
    caplog.set_level(logging.DEBUG)
    active = Active(uri, "x", storage_options=s3_store.storage_options)
    active.mean()
    assert "GET /bucket/remote/x.h5" in caplog.text
    assert s3_store.secret not in caplog.text + repr(active) + pickle.dumps(active).decode("latin-1")
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("botocore")]
    assert not [line for line in ours if "AWS4-HMAC" in line or s3_store.key in line]


def test_presigned_addresses(s3_store, uri, caplog):
    signing = S3SigV4QueryAuth(Credentials(s3_store.key, s3_store.secret), "s3", "us-east-1", expires=100)
    given = AWSRequest("GET", f"{s3_store.url}/{uri.removeprefix('s3://')}")
    signing.add_auth(given)
    presigned = given.prepare().url
    caplog.set_level(logging.DEBUG)
    active = Active(presigned, "x")
    assert active.sum() == 1128
    (signature,) = [part.partition("=")[2] for part in presigned.split("&") if part.startswith("X-Amz-Signature")]
    assert len(signature) == 64
    for text in (caplog.text, repr(active), active._source.uri, pickle.dumps(active).decode("latin-1")):
        assert signature not in text


# Web servers


@pytest.mark.parametrize("name", ["web_server", "web_server_https"])
def test_a_real_web_server(request, small, name):
    server = request.getfixturevalue(name)
    write(server.folder / "a b" / "é#?.h5", small)
    options = {"verify": str(server.ca_file)} if server.ca_file else {}
    active = Active(f"{server.url}/a b/é%23%3F.h5", "x", storage_options=options)
    assert (active.sum(), pickle.loads(pickle.dumps(active)).sum()) == (1128, 1128)
    write(server.folder / "a b" / "é#?.h5", small + b"longer")
    with pytest.raises(SourceError, match="has changed since it was opened"):
        active.sum()
    with pytest.raises(SourceNotFoundError, match="there is nothing at this address"):
        Active(f"{server.url}/no.h5", "x", storage_options=options)
    with pytest.raises(SourceError):
        Active(f"{server.url}/a b", "x", storage_options=options)


def test_certificates(web_server, web_server_https, small, authority, monkeypatch):
    write(web_server_https.folder / "x.h5", small)
    with pytest.raises(SourceError, match="its TLS certificate is not trusted"):
        Active(f"{web_server_https.url}/x.h5", "x")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    assert Active(f"{web_server_https.url}/x.h5", "x").sum() == 1128
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.warns(UserWarning, match="TLS certificates are not verified"):
        assert Active(f"{web_server_https.url}/x.h5", "x", storage_options={"verify": False}).sum() == 1128
    with pytest.raises(SourceError, match=r"is it a plain http:// server\?"):
        Active(web_server.url.replace("http:", "https:") + "/x.h5", "x")


def test_an_empty_file(web_server, s3_store):
    write(web_server.folder / "empty.nc", b"")
    write(s3_store.folder / "empty.nc", b"")
    for address, options in (
        (f"{web_server.url}/empty.nc", {}),
        (f"s3://{s3_store.bucket}/empty.nc", s3_store.storage_options),
    ):
        with pytest.raises(SourceError, match="it is empty"):
            Active(address, "x", storage_options=options)


# Numbers


@pytest.fixture(scope="module", params=["S3", "HTTP"])
def place(request):
    """A folder, the address of what is in it, and the options to read it."""
    if request.param == "HTTP":
        server = request.getfixturevalue("web_server")
        return server.folder, server.url, {}
    store = request.getfixturevalue("s3_store")
    return store.folder, f"s3://{store.bucket}", store.storage_options


@settings(max_examples=settings().max_examples)
@given(recipe=recipes())
def test_every_kind_of_file(place, recipe: Recipe) -> None:
    folder, address, options = place
    with tempfile.TemporaryDirectory() as own:
        path = Path(own, "a.nc")
        generated.write(recipe, path)
        shutil.copy(path, folder / "made-up.nc")
        local, remote = Active(path, NAME), Active(f"{address}/made-up.nc", NAME, storage_options=options)
        for name in REDUCTIONS:
            try:
                wanted = local.run(name)
            except SumOverflowError:
                continue
            found = remote.run(name)
            assert np.ma.getdata(found.value).tobytes() == np.ma.getdata(wanted.value).tobytes(), name
            assert np.array_equal(np.ma.getmaskarray(found.value), np.ma.getmaskarray(wanted.value))
            assert np.array_equal(found.count, wanted.count)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_groups_user_blocks_and_every_index(place, tmp_path, libver):
    folder, address, options = place
    with h5py.File(tmp_path / "a.h5", "w", libver=libver, userblock_size=1024) as file:
        for name, maxshape in (
            ("fixed", (200, 30)),
            ("growing", (None, 30)),
            ("all growing", (None, None)),
            ("odd", (200, None)),
        ):
            file.create_dataset(f"group/sub/{name}", data=np.arange(6000).reshape(200, 30), chunks=(2, 30), maxshape=maxshape)
        file["group/contiguous"] = np.arange(100_000.0)
    write(folder / f"{libver}.h5", (tmp_path / "a.h5").read_bytes())
    for name in ("fixed", "growing", "all growing", "odd"):
        active = Active(f"{address}/{libver}.h5", f"group/sub/{name}", storage_options=options)
        for part in (np.s_[...], np.s_[77], np.s_[::50, 3]):
            assert active[part].sum() == np.arange(6000).reshape(200, 30)[part].sum()
    contiguous = Active(f"{address}/{libver}.h5", "group/contiguous", storage_options=options)
    assert contiguous[500:90_000].sum() == np.arange(500, 90_000).sum()


# What it costs over a line


CHUNKS = 3400


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A netCDF-4 file of 70 MB with a variable of 3,400 chunks of 20 kB, as others write it: its index lies among the data."""
    path = tmp_path_factory.mktemp("large") / "large.nc"
    numbers = np.random.default_rng(0)
    with netCDF4.Dataset(path, "w") as file:
        for name, length in (("time", 34), ("lat", 500), ("lon", 1000)):
            file.createDimension(name, None if name == "time" else length)
            file.createVariable(name, "f8", (name,))[:] = np.arange(length)
        tas = file.createVariable("tas", "f4", ("time", "lat", "lon"), chunksizes=(1, 50, 100), compression="zlib", complevel=1)
        tas.setncatts({"units": "K", "long_name": "temperature of the air near the surface", "history": "x" * 3000})
        for step in range(34):
            tas[step] = numbers.normal(size=(500, 1000)).astype("f4")
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


@pytest.fixture
def over_a_line(place, large, line):
    """The large file's address over a line, the options to read it, and the line."""
    folder, address, options = place
    target = folder / "large.nc"
    if not target.exists():
        shutil.copy2(large, target)
    if options:
        slow = line(options["client_kwargs"]["endpoint_url"], round_trip=0.01)
        return f"{address}/large.nc", {**options, "client_kwargs": {"endpoint_url": slow.url}}, slow
    slow = line(address, round_trip=0.01)
    return f"{slow.url}/large.nc", options, slow


def test_the_index_of_3400_chunks(over_a_line, large):
    uri, options, slow = over_a_line
    table = Active(uri, "tas", storage_options=options).variable.table
    assert (len(table), table.partial) == (CHUNKS, False)
    assert table.offset.tolist() == Active(large, "tas").variable.table.offset.tolist()
    assert slow.rounds <= 8
    assert slow.received <= 2_000_000


def test_one_chunk_from_a_cold_start(over_a_line, large):
    uri, options, slow = over_a_line
    part = np.s_[20, 100:150, 300:400]
    found = Active(uri, "tas", storage_options=options)[part].run("mean")
    assert (found.value, found.report.chunks) == (Active(large, "tas")[part].mean(), 1)
    assert slow.rounds <= 10
    assert slow.received <= 1_000_000


def test_the_second_open(over_a_line):
    uri, options, slow = over_a_line
    first = Active(uri, "tas", storage_options=options)
    wanted = first.variable.table.offset
    slow.reset_counters()
    again = Active(uri, "tas", storage_options=options)
    assert np.array_equal(again.variable.table.offset, wanted)
    assert (slow.requests, slow.request_lines[0].split()[0]) == (1, "HEAD")
    assert slow.received < 2000
    slow.reset_counters()
    again[3, :50, :100].mean()
    assert slow.requests == 2, "the chunk, and whether the file is still the same"


def test_a_file_that_was_overwritten_does_not_meet_its_old_index(place, tmp_path):
    folder, address, options = place
    for number in (1.0, 2.0):
        with h5py.File(tmp_path / "o.h5", "w") as file:
            if number == 2:
                file["before"] = np.zeros(1000)
            file.create_dataset("x", data=np.full(4000, number), chunks=(40,))
        (folder / "o.h5").write_bytes((tmp_path / "o.h5").read_bytes())
        os.utime(folder / "o.h5", (LONG_AGO + number * 60, LONG_AGO + number * 60))
        for _ in range(2):
            assert Active(f"{address}/o.h5", "x", storage_options=options).mean() == number
    assert len(default_cache().entries()) == 1


def test_connections_are_kept_and_no_more_than_at_once(over_a_line, large):
    uri, options, slow = over_a_line
    assert Active(uri, "tas", storage_options=options)[:10].mean() == Active(large, "tas")[:10].mean()
    assert slow.most_open <= 64
    assert slow.connections <= 64


def test_a_line_that_fails_now_and_then(over_a_line, large, monkeypatch):
    monkeypatch.setattr(transport, "_FIRST_PAUSE", 0.01)
    uri, options, slow = over_a_line
    for fault in (RESET, CLOSED_HALFWAY, answered(503), answered(500)):
        slow.fail(fault, times=1, path=r"large\.nc")
    active = Active(uri, "tas", storage_options=options)
    assert slow.failed == 4
    for fault in (RESET, CLOSED_HALFWAY, answered(503), answered(429)):
        slow.fail(fault, times=1, path=r"large\.nc")
    assert active[:3].mean() == Active(large, "tas")[:3].mean()
    assert slow.failed == 8
    slow.fail(RESET)
    started = time.perf_counter()
    with pytest.raises(SourceError, match="the connection was lost"):
        Active(uri, "tas", storage_options=options)
    assert time.perf_counter() - started < 10


def test_memory_stays_bounded(over_a_line, monkeypatch):
    """However many requests are under way, the bytes of the chunks at work are within the budget."""
    from activestore.backends import posix

    monkeypatch.setattr(posix, "_MEMORY", 8 << 20)
    uri, options, _ = over_a_line
    active = Active(uri, "tas", storage_options=options)
    active.plan("mean")
    tracker = Tracked(monkeypatch)
    active.mean()
    assert 0 < tracker.most <= 8 << 20
    assert tracker.held == 0


class Tracked:
    """How many bytes of chunks are held: those that were read and not yet reduced."""

    def __init__(self, monkeypatch):
        import threading

        from activestore.backends import posix

        self.held = self.most = 0
        lock, read, reduce = threading.Lock(), HttpSource.read_ranges, posix.reduce_stored

        def change(nbytes):
            with lock:
                self.held += nbytes
                self.most = max(self.most, self.held)

        def reading(source, ranges):
            found = read(source, ranges)
            change(sum(map(len, found)))
            return found

        def reducing(raw, task):
            try:
                return reduce(raw, task)
            finally:
                change(-sum(map(len, raw)))

        monkeypatch.setattr(HttpSource, "read_ranges", reading)
        monkeypatch.setattr(posix, "reduce_stored", reducing)


def test_sources_are_opened_by_address_alone(uri, s3_store, web_server, small):
    write(web_server.folder / "x.h5", small)
    assert open_source(uri, s3_store.storage_options).size == open_source(f"{web_server.url}/x.h5").size == len(small)
