"""The mistakes that people make most: one error, which says what is wrong and what to try, in the words of its door."""

import os
import re
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import trustme
import xarray as xr

import activestore.accessor
from activestore import Active
from activestore.cli.main import main
from activestore.cli.wording import in_words_of_the_command_line
from activestore.errors import (
    ActivestoreError,
    ArgumentError,
    BackendUnavailableError,
    ConfigurationError,
    CorruptChunkError,
    NotNumericError,
    ReductionError,
    SelectionError,
    SourceError,
    SourceNotFoundError,
    UnsupportedError,
    UntraceableError,
    VariableNotFoundError,
    to_install,
)
from activestore.export.netcdf import write_netcdf

assert activestore.accessor
DEAD = "http://127.0.0.1:9"
ANONYMOUS = {"endpoint_url": DEAD, "anon": True}
PYTHONS = re.compile(r"\b(storage_options|backend_options)\b|\b(server|backend|fallback|axis|dim|workers)=|Traceback|Error\b")
"""Words that mean nothing on the command line."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("mistakes")
    with h5py.File(found / "a.h5", "w") as file:
        numbers = np.arange(48, dtype="f4").reshape(6, 8)
        file.create_dataset("x", data=numbers, chunks=(3, 4), compression="gzip")
        file.create_dataset("t", data=["a", "b"], dtype=h5py.string_dtype())
        start = file["x"].id.get_chunk_info(0).byte_offset
    whole = (found / "a.h5").read_bytes()
    (found / "damaged.h5").write_bytes(whole[:start] + bytes(10) + whole[start + 10 :])
    (found / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (found / "text.nc").write_text("no netCDF at all")
    (found / "dangling.nc").symlink_to(found / "gone.nc")
    (found / "empty").mkdir()
    with h5py.File(found / "links.h5", "w") as file:
        file["x"] = np.arange(3.0)
        file["soft"], file["outside"] = h5py.SoftLink("/nothing"), h5py.ExternalLink("gone.h5", "/x")
    return found


# Of each: what is called in Python with the folder, the error, and words that it has.
PYTHON: dict[str, tuple[Callable[[Path], Any], type[ActivestoreError], str]] = {
    "no file": (lambda d: Active(d / "no.nc", "x"), SourceNotFoundError, "no such file; check the path"),
    "a link to nothing": (
        lambda d: Active(d / "dangling.nc", "x"),
        SourceNotFoundError,
        "is a link to .*gone.nc, which is not there",
    ),
    "an empty folder": (lambda d: Active(d / "empty", "x"), SourceNotFoundError, "has no files directly in it"),
    "no netCDF": (lambda d: Active(d / "text.nc", "x"), SourceError, "is neither netCDF nor HDF5"),
    "cut off": (lambda d: Active(d / "cut.h5", "x"), SourceError, "is it cut off or damaged"),
    "no variable": (lambda d: Active(d / "a.h5", "y"), VariableNotFoundError, "no variable 'y'; it has: t, x"),
    "text": (lambda d: Active(d / "a.h5", "t"), NotNumericError, "holds text"),
    "a link in it": (
        lambda d: Active(d / "links.h5", "soft"),
        VariableNotFoundError,
        "'soft' is a link to /nothing, which is not",
    ),
    "a link out of it": (
        lambda d: Active(d / "links.h5", "outside"),
        VariableNotFoundError,
        "link to /x of gone.h5, which is not",
    ),
    "a damaged chunk": (lambda d: Active(d / "damaged.h5", "x").mean(), CorruptChunkError, r"chunk \(0, 0\).*cannot decode it"),
    "no axis": (lambda d: Active(d / "a.h5", "x").mean(axis="lat"), SelectionError, "no axis 'lat'; the dimensions are"),
    "no position": (lambda d: Active(d / "a.h5", "x")[10], SelectionError, "position 10 is outside"),
    "a strange index": (lambda d: Active(d / "a.h5", "x")[1.5], SelectionError, "neither an integer, a slice"),
    "no reduction": (lambda d: Active(d / "a.h5", "x").reduce("median"), ReductionError, "no reduction 'median'; there are"),
    "a number for a reduction": (lambda d: Active(d / "a.h5", "x").reduce(7), ReductionError, "no reduction"),  # type: ignore[arg-type]
    "None": (lambda _: Active(None, "x"), ArgumentError, "given as a path, an address, or a source.*this is None"),  # type: ignore[arg-type]
    "a number": (lambda _: Active(3, "x"), ArgumentError, "this is of the type int"),  # type: ignore[arg-type]
    "an array": (lambda _: Active(np.zeros(3), "x"), ArgumentError, "this is of the type ndarray"),  # type: ignore[arg-type]
    "None among files": (lambda d: Active([d / "a.h5", None], "x"), ArgumentError, "this is None"),  # type: ignore[list-item]
    "no name": (lambda d: Active(d / "a.h5", None), ArgumentError, "the name of a variable is text, not None"),  # type: ignore[arg-type]
    "an empty path": (lambda _: Active("", "x"), SourceNotFoundError, "is empty"),
    "no backend": (lambda d: Active(d / "a.h5", "x", backend="posixx"), ConfigurationError, "did you mean 'posix'"),
    "no workers": (lambda d: Active(d / "a.h5", "x", workers=0), ConfigurationError, "workers=0: give a whole number"),
    "no server": (
        lambda d: Active(d / "a.h5", "x", backend="reductionist").mean(),
        ConfigurationError,
        "needs the address of a server: server='https://…'",
    ),
    "a dead server": (
        lambda d: Active(d / "a.h5", "x", backend="reductionist", server=DEAD).mean(),
        BackendUnavailableError,
        "nothing listens there; check the address and whether the server runs",
    ),
    "a server without effect": (
        lambda d: Active(d / "a.h5", "x", server=DEAD, backend="posix"),
        ConfigurationError,
        "server= has no",
    ),
    "a dead store": (lambda _: Active("s3://b/x.nc", "x", storage_options=ANONYMOUS), SourceError, "nothing listens there"),
    "a misspelt option": (
        lambda _: Active("s3://b/x.nc", "x", storage_options={"anonn": True, "endpoint_url": DEAD}),
        ConfigurationError,
        "storage_options: there is no option 'anonn'; did you mean 'anon'",
    ),
    "an option of the client": (
        lambda _: Active("s3://b/x.nc", "x", storage_options={**ANONYMOUS, "client_kwargs": {"region": "r"}}),
        ConfigurationError,
        "client_kwargs: there is no option 'region'; did you mean 'region_name'",
    ),
    "an option of web servers": (
        lambda _: Active(f"{DEAD}/x.nc", "x", storage_options={"heders": {}}),
        ConfigurationError,
        "did you mean 'headers'",
    ),
    "an option of a cache": (
        lambda _: Active("simplecache::memory://x.nc", "x", storage_options={"cache_storag": "/tmp"}),  # noqa: S108  # none is made
        ConfigurationError,
        "did you mean 'cache_storage'",
    ),
    "options that are none": (
        lambda _: Active("s3://b/x.nc", "x", storage_options="anon"),  # type: ignore[arg-type]
        ConfigurationError,
        "give a mapping from names to values",
    ),
    "an unknown scheme": (lambda _: Active("foo://x.nc", "x"), UnsupportedError, "cannot be opened"),
    "no such host": (lambda _: Active("http://nowhere.invalid/x.nc", "x"), SourceError, "there is no host of that name"),
    "a file for xarray": (lambda d: xr.open_dataset(d / "no.nc", engine="activestore"), SourceNotFoundError, "no such file"),
    "a damaged chunk for xarray": (
        lambda d: xr.open_dataset(d / "damaged.h5", engine="activestore").x.active.mean(),
        CorruptChunkError,
        "cannot decode it",
    ),
    "arithmetic before": (
        lambda d: (xr.open_dataset(d / "a.h5", engine="activestore").x - 273.15).active.mean(),
        UntraceableError,
        r"of arithmetic, as in \(ds.t - 273.15\).active.*as in ds.t.active.mean\(\) - 273.15",
    ),
    "arithmetic before, of Dask": (
        lambda d: (xr.open_dataset(d / "a.h5", engine="activestore", chunks={}).x - 273.15).active.mean(),
        UntraceableError,
        "reduce with .active first and compute afterwards",
    ),
    "a written folder": (
        lambda d: write_netcdf(Active(d / "a.h5", "x").run("mean"), d / "no" / "x.nc"),
        ConfigurationError,
        "there is no folder",
    ),
}


def raised(call: Callable[[], Any]) -> ActivestoreError:
    with pytest.raises(ActivestoreError) as caught:
        call()
    return caught.value


def check_one(error: ActivestoreError) -> None:
    """What Python prints has one error in it, and one line that says it."""
    assert "".join(traceback.format_exception(error)).count("Traceback") == 1
    assert "\n" not in str(error)


@pytest.mark.parametrize("name", PYTHON)
def test_in_python(folder: Path, name: str) -> None:
    call, kind, words = PYTHON[name]
    error = raised(lambda: call(folder))
    assert type(error) is kind or isinstance(error, kind)
    assert re.search(words, str(error))
    check_one(error)


# Of each: the arguments, the exit code, and words of the one line that there is.
COMMANDS: dict[str, tuple[list[str], int, str]] = {
    "no file": (["reduce", "no.nc", "x"], 1, "no such file"),
    "a link to nothing": (["reduce", "dangling.nc", "x"], 1, "is a link to"),
    "no netCDF": (["reduce", "text.nc", "x"], 1, "is neither netCDF nor HDF5"),
    "no variable": (["reduce", "a.h5", "y"], 2, "it has: t, x"),
    "text": (["reduce", "a.h5", "t"], 2, "holds text"),
    "a damaged chunk": (["reduce", "damaged.h5", "x"], 1, "cannot decode it"),
    "no axis": (["reduce", "a.h5", "x", "--axis", "lat"], 2, "no axis 'lat'"),
    "no reduction": (["reduce", "a.h5", "x", "--op", "median"], 2, "no reduction 'median'"),
    "no condition": (["reduce", "a.h5", "x", "--where", "> a"], 2, "is no condition"),
    "no server": (["reduce", "a.h5", "x", "--backend", "reductionist"], 2, "needs the address of a server: --server https://…"),
    "a dead server": (["reduce", "a.h5", "x", "--backend", "reductionist", "--server", DEAD], 1, "or use --backend posix"),
    "a server without effect": (["reduce", "a.h5", "x", "--backend", "posix", "--server", DEAD], 2, "--server has no effect"),
    "no fallback": (["reduce", "a.h5", "x", "--fallback", "none"], 2, "--fallback none: give 'local' or 'error'"),
    "no workers": (["reduce", "a.h5", "x", "--workers", "0"], 2, "--workers 0: give a whole number"),
    "one file": (["reduce", "a.h5", "x", "--dim", "dim_0"], 2, "--dim is the dimension along which.*are given as --axis"),
    "a misspelt option": (
        ["reduce", "s3://b/x.nc", "x", "--storage-option", "anonn=true"],
        2,
        "--storage-option: there is no option",
    ),
    "no output": (["reduce", "a.h5", "x", "-o", "-"], 2, "-o -: a netCDF file cannot be written to the standard output"),
    "no folder": (["reduce", "a.h5", "x", "-o", "no/x.nc"], 2, "there is no folder"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_on_the_command_line(
    folder: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, code, words = COMMANDS[name]
    monkeypatch.chdir(folder)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(f"activestore: error: [^\n]*{words}[^\n]*\n", printed.err)
    assert PYTHONS.search(printed.err) is None
    assert not (folder / "-").exists()


def test_what_a_server_cannot_do_is_said_with_the_option_that_allows_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = in_words_of_the_command_line("2 chunks are beyond the backend; allow fallback='local' to compute such chunks here")
    assert said == "2 chunks are beyond the backend; allow --fallback local to compute such chunks here"


@pytest.mark.parametrize(
    "message",
    [
        "/data/server=a/x.nc: no such file",
        "/data/where=b.nc: no such file; check the path",
        "no variable 'axis'; it has: dim, server, workers",
        "dim=/: is a folder",
        "s3://bucket/dim=time/backend=x: names no object",
    ],
)
def test_names_of_files_and_variables_are_left_as_they_are(message: str) -> None:
    assert in_words_of_the_command_line(message) == message


def test_a_file_that_another_program_writes_to(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write = (
        f"import h5py; file = h5py.File({str(path)!r}, 'w'); file['x'] = [1.0]; file.flush(); print('', flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", write], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        try:
            for call in (lambda: Active(path, "x"), lambda: xr.open_dataset(path, engine="activestore")):
                error = raised(call)
                assert "another program has it open for writing, and has locked it; try again" in str(error)
                assert "damaged" not in str(error)
                check_one(error)
        finally:
            process.stdin.close()
            process.wait(20)
    assert Active(path, "x").sum() == 1.0


class TestWriting:
    def test_a_folder_that_may_not_be_written_to(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied", str(tmp_path / "x"))

        monkeypatch.setattr("activestore.export.netcdf.h5netcdf.File", refused)
        error = raised(lambda: write_netcdf(Active(folder / "a.h5", "x").run("mean"), tmp_path / "x.nc"))
        assert f"{tmp_path / 'x.nc'}: cannot be written: permission denied" in str(error)
        assert "read" not in str(error)
        check_one(error)

    @pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no folder of the system's own")
    def test_a_folder_of_the_system(self, folder: Path) -> None:
        error = raised(lambda: write_netcdf(Active(folder / "a.h5", "x").run("mean"), "/proc/x.nc"))
        assert "/proc/x.nc: cannot be written" in str(error)
        assert "check the path" not in str(error)

    def test_a_full_disk(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("activestore.export.netcdf.h5netcdf.File", full)
        error = raised(lambda: write_netcdf(Active(folder / "a.h5", "x").run("mean"), tmp_path / "x.nc"))
        assert str(error) == f"{tmp_path / 'x.nc'}: cannot be written: No space left on device"


class _Anything(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815  # the name that the base class looks for

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def untrusted() -> Iterator[str]:
    """A web server whose certificate nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Anything) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("name", ["x.nc", "x.zarr"])
@pytest.mark.parametrize("options", [{}, {"block_size": 1000}], ids=["ours", "fsspec's"])
def test_a_certificate_that_is_not_trusted(name: str, options: dict[str, Any]) -> None:
    with untrusted() as url:
        error = raised(lambda: Active(f"{url}/{name}", "x", storage_options=options))
    assert "certificate is not trusted" in str(error)
    assert not isinstance(error, FileNotFoundError)
    check_one(error)


def test_a_file_of_settings_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIVESTORE_CONFIG", str(folder / "no.toml"))
    error = raised(lambda: Active(folder / "a.h5", "x"))
    assert f"{folder / 'no.toml'}: is not there, and ACTIVESTORE_CONFIG names it" in str(error)
    check_one(error)


def test_advice_to_install_names_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert to_install("s3") == "pip install '.[s3]' in a clone of activestore"
    sources = [path.read_text(encoding="utf-8") for path in Path(activestore.__file__).parent.rglob("*.py")]
    assert not [text for text in sources if "pip install activestore" in text or "pip install 'activestore" in text]


def test_files_that_cannot_be_read_are_named_once_among_several(folder: Path) -> None:
    error = raised(lambda: Active([folder / "a.h5", folder / "cut.h5"], "x"))
    assert str(error).count("cut.h5") == 1
    check_one(error)
