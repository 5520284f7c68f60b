"""The command line: what it prints, what it writes, and how it fails."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import warnings

import h5py
import netCDF4
import numpy as np
import pytest

import activestore
from activestore import Active
from activestore.backends import posix
from activestore.cli import arguments, demo
from activestore.cli import main as cli
from activestore.cli import site as site_commands
from activestore.core.backend import BackendRecord
from activestore.errors import CorruptChunkError, SelectionError, SourceError, UnsupportedError
from activestore.plugins import Plugins
from activestore.sources import metadata_cache as index_cache
from activestore.testing.datasets import write_sample
from tests.web_stand_in import WebStandIn


@pytest.fixture
def tas(tmp_path, monkeypatch):
    """A sample file `tas.nc` in the current folder; gives its whole array."""
    monkeypatch.chdir(tmp_path)
    write_sample("tas.nc")
    with netCDF4.Dataset("tas.nc") as file:
        return file["tas"][...]


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """A file `odd.h5` with text, NaN and infinity, a dimension without a name, and an attribute that steers terminals."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("odd.h5", "w") as file:
        file["words"] = ["one", "two"]
        file["x"] = np.array([[1.0, np.nan, np.inf], [4.0, 5.0, -np.inf]])
        file["x"].attrs["long_name"] = "clear\x1b[2Jscreen"
        file["n"] = np.arange(5, dtype="u8") + 2**62
        packed = file.create_dataset("g/packed", data=np.arange(6, dtype="i2"), chunks=(4,), compression="gzip")
        packed.attrs.update(scale_factor=0.5, add_offset=1.0, _FillValue=np.int16(3), valid_max=np.int16(5))


def output(capsys, *argv):
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def record(capsys, *argv):
    def refuse(name):
        raise ValueError(name)

    return json.loads(output(capsys, *argv, "--json"), parse_constant=refuse)


def failure(capsys, code, *argv):
    assert cli.main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("activestore: error: ")
    assert err.count("\n") == 1
    return err


def test_inspect_lists_every_variable(capsys, tas):
    lines = output(capsys, "inspect", "tas.nc").splitlines()
    assert lines[0].startswith("tas.nc: ")
    assert sorted(line.split()[0] for line in lines[2:]) == ["lat", "lon", "tas", "time"]
    row = next(line for line in lines if line.startswith("tas "))
    for part in ("time: 24, lat: 18, lon: 36", "float32", "12 x 18 x 36", "chunked", "shuffle + zlib", "62.2 kB", " K "):
        assert part in row


def test_inspect_tells_all_of_one_variable(capsys, tas):
    text = output(capsys, "inspect", "tas.nc", "tas")
    for part in ("2 x 1 x 1 = 2, 2 of them written", "zlib (level 4)", "62,208 bytes", "1.00000002e+20", "air_temperature"):
        assert part in text


def test_inspect_json(capsys, tas):
    found = record(capsys, "inspect", "tas.nc")
    found = {one["name"]: one for one in found["variables"]}
    assert set(found) == {"lat", "lon", "tas", "time"}
    one = record(capsys, "inspect", "tas.nc", "tas")
    assert found["tas"] | {"source": "tas.nc"} == one
    assert one["chunk_grid"] == [2, 1, 1]
    assert one["decoded_bytes"] == tas.nbytes
    assert one["compression_ratio"] == one["decoded_bytes"] / one["stored_bytes"]
    assert [codec["id"] for codec in one["codecs"]] == ["shuffle", "zlib"]
    assert one["attributes"]["units"] == "K"


def test_inspect_lists_text_without_failing(capsys, odd):
    text = output(capsys, "inspect", "odd.h5")
    assert "words  text or records" in text
    assert "\x1b" not in text
    found = {one["name"]: one for one in record(capsys, "inspect", "odd.h5")["variables"]}
    assert found["words"]["numeric"] is False
    assert found["g/packed"]["packing"] == {"scale_factor": 0.5, "add_offset": 1.0}
    assert "\x1b" not in output(capsys, "inspect", "odd.h5", "x")
    text = output(capsys, "inspect", "odd.h5", "/g/packed")
    for part in ("int16 -> float64", "stored * 0.5 + 1", "3; above 5"):
        assert part in text


def test_inspect_goes_on_behind_a_damaged_variable(capsys, tas, monkeypatch):
    whole = cli.read_variable

    def damaged(source, name):
        if name == "lon":
            raise SourceError("the chunk index is damaged")
        if name == "time":
            raise UnsupportedError("chunks of more than 4 GiB")
        return whole(source, name)

    monkeypatch.setattr(cli, "read_variable", damaged)
    assert cli.main(["inspect", "tas.nc"]) == 1
    out = capsys.readouterr().out
    assert "lon   the chunk index is damaged" in out
    assert "tas " in out
    assert "time  chunks of more than 4 GiB" in out


def test_reduce_prints_numbers_with_units(capsys, tas):
    text = output(capsys, "reduce", "tas.nc", "tas", "--op", "mean,count", "--op", "var")
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[:3]}
    assert float(rows["mean"][0]) == pytest.approx(tas.mean(dtype="f8"), rel=1e-9)
    assert rows["mean"][1] == "K"
    assert rows["var"][1] == "K2"
    assert rows["count"] == [f"{tas.count():,}"]
    assert "2 by posix" in text


def test_reduce_cuts_long_arrays_short(capsys, tas):
    text = output(capsys, "reduce", "tas.nc", "tas", "--axis", "time")
    assert "mean (lat: 18, lon: 36) K" in text
    assert "-- -- --" in text
    assert "..." in text
    assert "648 numbers: -o result.nc keeps them all" in text
    text = output(capsys, "reduce", "tas.nc", "tas", "--axis", "time,lat", "--select", "lon=0:3")
    assert "-o" not in text
    assert "..." not in text


@pytest.mark.parametrize(
    ("axis", "numbers"),
    [([], None), (["time"], 0), (["lat,lon"], (1, 2)), (["lon", "lat"], (1, 2)), (["-1"], 2), (["0", "lon"], (0, 2))],
)
def test_reduce_json_has_the_values_of_numpy(capsys, tas, axis, numbers):
    options = [part for name in axis for part in ("--axis", name)]
    found = record(capsys, "reduce", "tas.nc", "tas", "--op", "mean,min,max,sum,count,std", *options)
    wide = tas.astype("f8")
    expected = {
        "mean": wide.mean(axis=numbers),
        "min": tas.min(axis=numbers),
        "max": tas.max(axis=numbers),
        "sum": wide.sum(axis=numbers),
        "std": wide.std(axis=numbers),
        "count": tas.count(axis=numbers),
    }
    for name, values in expected.items():
        got = np.array(found["values"][name], float)
        np.testing.assert_allclose(got, np.ma.filled(np.ma.asarray(values, "f8"), np.nan), rtol=1e-9)
    assert found["shape"] == list(np.shape(expected["count"]))
    assert found["units"]["mean"] == "K"
    assert found["report"]["where"] == {"posix": 2}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (["time=0:12"], np.s_[:12]),
        (["time=2:20:3,lat=5:9"], np.s_[2:20:3, 5:9]),
        (["time=::-2", "lon=-1"], np.s_[::-2, :, -1]),
        (["2=-10:", "0=3"], np.s_[3, :, -10:]),
        ([" lat = [1, 5,9] , lon=4:5"], np.s_[:, [1, 5, 9], 4:5]),
        (["lat=[-1]"], np.s_[:, [-1]]),
    ],
)
def test_select_means_what_numpy_means(capsys, tas, text, part):
    options = [option for one in text for option in ("--select", one)]
    found = record(capsys, "reduce", "tas.nc", "tas", "--op", "max,count", *options)
    assert found["values"] == {"max": float(tas[part].max()), "count": int(tas[part].count())}


def test_keepdims_ddof_and_skipna(capsys, tas, odd):
    found = record(capsys, "reduce", "tas.nc", "tas", "--op", "std,var,mean", "--ddof", "1", "--axis", "time", "--keepdims")
    assert (found["dims"], found["shape"]) == (["time", "lat", "lon"], [1, 18, 36])
    got = np.array(found["values"]["std"], float)[0, 5]
    np.testing.assert_allclose(got, tas.astype("f8").std(axis=0, ddof=1)[5], rtol=1e-12)
    assert record(capsys, "reduce", "odd.h5", "x", "--op", "min", "--axis", "1", "--no-skipna")["values"]["min"] == [
        "NaN",
        "-Infinity",
    ]
    assert record(capsys, "reduce", "odd.h5", "x", "--op", "max", "--axis", "1")["values"]["max"] == ["Infinity", 5.0]


def test_json_keeps_large_integers_and_shows_nothing_as_null(capsys, tas, odd):
    assert record(capsys, "reduce", "odd.h5", "n", "--op", "max")["values"]["max"] == 2**62 + 4
    found = record(capsys, "reduce", "tas.nc", "tas", "--select", "lat=0,lon=0")
    assert found["values"]["mean"] is None
    assert found["count"] == 0
    assert "masked" in output(capsys, "reduce", "tas.nc", "tas", "--select", "lat=0,lon=0")


def test_workers_backend_and_progress(capsys, tas):
    found = record(capsys, "reduce", "tas.nc", "tas", "--workers", "1", "--backend", "posix")
    assert found["report"]["workers"] == 1
    pytest.importorskip("tqdm")
    assert cli.main(["reduce", "tas.nc", "tas", "--progress"]) == 0
    assert "2/2" in capsys.readouterr().err


def test_explain_reads_nothing(capsys, tas, monkeypatch):
    def refuse(self, task):
        raise AssertionError("a chunk was read")

    monkeypatch.setattr(posix.PosixBackend, "reduce_chunk", refuse)
    text = output(capsys, "reduce", "tas.nc", "tas", "--explain", "--select", "time=0:3")
    assert "1 of 2 touched" in text
    assert record(capsys, "reduce", "tas.nc", "tas", "--explain")["chunks"] == 2


def test_output_is_a_file(capsys, tas):
    text = output(capsys, "reduce", "tas.nc", "tas", "--axis", "time", "--op", "mean,max", "-o", "map.nc")
    assert text.startswith("map.nc: written\n")
    with netCDF4.Dataset("map.nc") as file:
        np.testing.assert_allclose(file["tas_mean"][:].filled(0), tas.astype("f8").mean(axis=0).filled(0), rtol=1e-14)
        np.testing.assert_array_equal(file["tas_max"][:].filled(0), tas.max(axis=0).filled(0))
        assert "activestore reduce tas.nc tas --axis time --op mean,max -o map.nc" in file.history
    assert "exists already" in failure(capsys, 2, "reduce", "tas.nc", "tas", "-o", "map.nc")
    output(capsys, "reduce", "tas.nc", "tas", "-o", "map.nc", "--overwrite")
    with netCDF4.Dataset("map.nc") as file:
        assert file["tas"][...] == tas.mean(dtype="f8")


def test_nothing_is_computed_for_a_place_that_is_refused(capsys, tas, monkeypatch):
    def refuse(self, task):
        raise AssertionError("a chunk was read")

    monkeypatch.setattr(posix.PosixBackend, "reduce_chunk", refuse)
    before = os.stat("tas.nc").st_mtime_ns
    assert "is the file that is read" in failure(capsys, 2, "reduce", "tas.nc", "tas", "-o", "./tas.nc", "--overwrite")
    assert "no folder" in failure(capsys, 2, "reduce", "tas.nc", "tas", "-o", "none/map.nc")
    assert os.stat("tas.nc").st_mtime_ns == before
    assert os.listdir() == ["tas.nc"]


def test_backends(capsys, monkeypatch):
    text = output(capsys, "backends")
    assert "posix" in text
    assert "zlib" in text
    plugins = Plugins.built_in()
    plugins.broken["wrecked"] = "ImportError: no such thing"
    plugins._take([BackendRecord("far", posix.PosixBackend, "far away", available=lambda: "it needs the package 'far'")])
    monkeypatch.setattr(site_commands, "default_plugins", lambda: plugins)
    text = output(capsys, "backends")
    assert "it needs the package 'far'" in text
    assert "wrecked  ImportError" in text
    found = record(capsys, "backends")
    assert {one["name"]: one["problem"] for one in found["backends"]} == {
        "posix": None,
        "reductionist": None,
        "far": "it needs the package 'far'",
    }
    assert found["broken_plugins"] == {"wrecked": "ImportError: no such thing"}
    assert found["decoders"]["zlib"] is True


@pytest.mark.parametrize("hidden", [(), ("netCDF4",), ("esmvaltool_sample_data", "netCDF4")])
def test_demo(capsys, monkeypatch, hidden):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in hidden else find(name, *rest))
    # The sample data need not be imported, nor the large package that they import; another test may have done so.
    for name in [name for name in sys.modules if name == "iris" or name.startswith("iris.")]:
        monkeypatch.delitem(sys.modules, name)
    text = output(capsys, "demo")
    assert "the same numbers" in text
    assert ("h5py" if hidden else "netCDF4") + " reads the whole array" in text
    assert "Jul █" in text
    assert "iris" not in sys.modules
    assert "activestore reduce" in text


def test_demo_fails_if_numbers_differ(capsys, monkeypatch):
    monkeypatch.setattr(demo, "_whole_array", lambda _: ("a library", np.ma.zeros((2, 2), "f4")))
    assert cli.main(["demo"]) == 1
    assert "OTHER NUMBERS" in capsys.readouterr().out


MISTAKES = [
    (["reduce", "tas.nc", "tas", "--workers", "-1"], "--workers -1: give a whole number"),
    (["inspect", "http://h.example/a.nc", "--storage-option", "headers=hun"], "--storage-option headers: give a mapping"),
    (["inspect", "s3://bucket/a.nc", "--storage-option", "client_kwargs=3"], "--storage-option client_kwargs: give a mapping"),
    (["inspect", "s3://bucket/a.nc", "--storage-option", "anon=False"], "--storage-option anon: give true or false"),
    (["inspect", "tas.nc", "taz"], "did you mean 'tas'?"),
    (["reduce", "tas.nc", "TAS"], "did you mean 'tas'?"),
    (["reduce", "odd.h5", "words"], "holds text"),
    (["inspect", "odd.h5", "words"], "holds text"),
    (["reduce", "tas.nc", "tas", "--op", "median"], "no reduction 'median'"),
    (["reduce", "tas.nc", "tas", "--op", "mean,mean"], "name each reduction once"),
    (["reduce", "tas.nc", "tas", "--op", ","], "at least one"),
    (["reduce", "tas.nc", "tas", "--ddof", "1"], "--ddof goes with"),
    (["reduce", "tas.nc", "tas", "--axis", "3"], "no axis 3; the dimensions are 'time' (0)"),
    (["reduce", "tas.nc", "tas", "--axis", "tim"], "no axis 'tim'"),
    (["reduce", "tas.nc", "tas", "--axis", "time,0"], "twice"),
    (["reduce", "tas.nc", "tas", "--select", "time"], "'time' is not dim=start:stop"),
    (["reduce", "tas.nc", "tas", "--select", "time=0:2,lat=[1,2"], "'lat=[1,2' is not"),
    (["reduce", "tas.nc", "tas", "--select", "time=a:b"], "'a:b' does not consist of whole numbers"),
    (["reduce", "tas.nc", "tas", "--select", "time=[1,x]"], "does not consist of whole numbers"),
    (["reduce", "tas.nc", "tas", "--select", "time=__import__('os')"], "does not consist of whole numbers"),
    (["reduce", "tas.nc", "tas", "--select", "time=1:2:3:4"], "is no slice"),
    (["reduce", "tas.nc", "tas", "--select", "time=::0"], "is not a slice"),
    (["reduce", "tas.nc", "tas", "--select", "time=24"], "outside its 24 positions"),
    (["reduce", "tas.nc", "tas", "--select", "lat=[0,18]"], "outside its 18 positions"),
    (["reduce", "tas.nc", "tas", "--select", "level=0"], "no axis 'level'"),
    (["reduce", "tas.nc", "tas", "--select", "lat=0,1=1"], "'lat' twice"),
    (["reduce", "tas.nc", "tas", "--workers", "0"], "--workers 0: give"),
    (["reduce", "tas.nc", "tas", "--backend", "posiks"], "did you mean 'posix'?"),
    (["reduce", "tas.nc", "tas", "--explain", "-o", "map.nc"], "--explain computes nothing"),
]


@pytest.mark.parametrize(("argv", "message"), MISTAKES, ids=[" ".join(argv) for argv, _ in MISTAKES])
def test_mistakes_of_the_user(capsys, tas, odd, argv, message):
    assert message in failure(capsys, 2, *argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["reduse"], "invalid choice"),
        (["reduce", "tas.nc"], "required: VAR"),
        (["reduce", "tas.nc", "tas", "--ddof", "one"], "invalid float value"),
        (["reduce", "tas.nc", "tas", "--json", "-o", "a.nc"], "not allowed with"),
        (["inspect", "tas.nc", "--no-such-option"], "there is no option --no-such-option"),
    ],
)
def test_wrong_arguments(capsys, argv, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("activestore: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("address", ["http://me:hun/ter@h.example/a.nc", "http://me:hun'ter@h.example/a.nc?code=hun"])
@pytest.mark.parametrize("before", [[], ["inspect", "a.nc", "x"], ["reduce", "a.nc", "x", "mean", "--workers"]])
def test_wrong_arguments_have_no_secrets_of_addresses(capsys, address, before):
    with pytest.raises(SystemExit):
        cli.main([*before, address])
    err = capsys.readouterr().err
    assert "hun" not in err
    assert "h.example/a.nc" in err


@pytest.mark.parametrize("address", ["http://me:hun/ter@h.example/a.nc", "https://hun@h.example/a.nc?hun"])
@pytest.mark.parametrize(
    "before",
    [
        ["--backend"],
        ["-o"],
        ["--where"],
        ["--select"],
        ["--axis"],
        ["--op"],
        ["--storage-option"],
        ["--backend-option"],
        ["--fallback"],
        ["--server", "gopher://x", "--dim"],
        ["--workers"],
    ],
)
def test_no_option_shows_the_secrets_of_an_address(capsys, tas, before, address):
    for given in ([*before, address], [*before[:-1], f"{before[-1]}={address}"]):
        try:
            code = cli.main(["reduce", "tas.nc", "tas", *given])
        except SystemExit as stop:
            code = stop.code
        said = "".join(capsys.readouterr())
        assert code == 2
        assert "activestore: error: " in said
        assert "hun" not in said


def test_the_history_of_a_file_has_no_secrets(capsys, tas):
    with WebStandIn() as web:
        with open("tas.nc", "rb") as file:
            web.files["/tas.nc"] = file.read()
        server, address = web.address, f"http://me:hun%2Fter@{web.address}/tas.nc?code=hun&version=2"
        options = ["--storage-option", 'headers={"X-Key": "hun"}', "--storage-option=version=none"]
        output(capsys, "reduce", address, "tas", *options, "-o", "hidden.nc")
    with open("hidden.nc", "rb") as file:
        assert b"hun" not in file.read()
    with netCDF4.Dataset("hidden.nc") as file:
        said = f"'http://{server}/tas.nc?version=2' tas --storage-option 'headers=***' --storage-option=version=none"
        assert said in file.history


def test_failed_runs(capsys, tas, monkeypatch):
    assert "no such file" in failure(capsys, 1, "inspect", "none.nc")
    assert "no such file" in failure(capsys, 1, "reduce", "none.nc", "tas")
    with open("text.txt", "w", encoding="utf-8") as file:
        file.write("not a netCDF file, but long enough to be one")
    assert "neither netCDF nor HDF5" in failure(capsys, 1, "reduce", "text.txt", "tas")
    os.mkdir("empty")
    assert "empty/: has no files directly in it" in failure(capsys, 1, "inspect", "empty/")
    assert "gopher://" in failure(capsys, 1, "inspect", "gopher://bucket/tas.nc")
    table = Active("tas.nc", "tas").variable.table
    with open("tas.nc", "r+b") as file:
        file.seek(int(table.offset[1]))
        file.write(b"\xff" * 64)
    assert "chunk" in failure(capsys, 1, "reduce", "tas.nc", "tas")

    def full(*args, **kwargs):
        raise MemoryError("Unable to allocate 1 TiB")

    monkeypatch.setattr(Active, "run", full)
    assert "not enough memory" in failure(capsys, 1, "reduce", "tas.nc", "tas")


def test_messages_stay_on_one_line(capsys, tas, monkeypatch):
    def fail(*args, **kwargs):
        raise CorruptChunkError("first\nsecond\x1b[31m")

    monkeypatch.setattr(Active, "run", fail)
    assert failure(capsys, 1, "reduce", "tas.nc", "tas") == "activestore: error: first second\\x1b[31m\n"


@pytest.mark.filterwarnings("always")
def test_warnings_are_one_line(capsys, tas, monkeypatch):
    run = Active.run

    def warn(*args, **kwargs):
        warnings.warn("2 chunks were computed here:\nthe backend cannot", stacklevel=2)
        return run(*args, **kwargs)

    monkeypatch.setattr(Active, "run", warn)
    assert cli.main(["reduce", "tas.nc", "tas"]) == 0
    assert capsys.readouterr().err == "activestore: warning: 2 chunks were computed here: the backend cannot\n"


def test_interrupt(capsys, tas, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Active, "run", interrupt)
    assert "interrupted" in failure(capsys, 130, "reduce", "tas.nc", "tas")


def test_version_and_help(capsys):
    for argv, parts in (
        (["--version"], [f"activestore {activestore.__version__}"]),
        (["--help"], ["inspect", "reduce", "backends", "demo", "exit codes"]),
        (["reduce", "--help"], ["examples:", "--select", "lat=[1,5,9]", "NaN"]),
        (["inspect", "--help"], ["examples:"]),
        (["backends", "--help"], ["examples:"]),
        (["demo", "--help"], ["example:"]),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        assert stop.value.code == 0
        out = capsys.readouterr().out
        assert all(part in out for part in parts)


def test_selection_errors_are_ours():
    with pytest.raises(SelectionError):
        arguments.parse_selection(["x=" + "9" * 5000], ("x",))
    assert issubclass(SelectionError, IndexError)
    assert arguments.parse_selection([""], ("x",)) == (slice(None),)
    assert arguments.parse_selection([], ()) == ()
    assert arguments.parse_selection(["x=[]"], ("x",)) == ([],)


def python(*argv, check, env=None):
    command = [sys.executable, "-W", "error", "-m", "activestore", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=check, env=env)


def test_module_runs(tas):
    done = python("reduce", "tas.nc", "tas", "--op", "max", "--json", check=True)
    assert json.loads(done.stdout)["values"]["max"] == float(tas.max())
    done = python("reduce", "tas.nc", "tass", check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "did you mean 'tas'" in done.stderr


def test_output_that_cannot_show_every_character(tas):
    done = python("demo", check=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert "Jul ?" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="pipes of POSIX")
@pytest.mark.parametrize("argv", [["reduce", "tas.nc", "tas", "--axis", "time", "--json"], ["reduce", "--help"], ["demo"]])
def test_reader_that_goes_away_is_no_error(tas, argv):
    end, start = os.pipe()
    os.close(end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "activestore", *argv], stdout=start, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(start)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_interrupt_of_a_process(tmp_path):
    """A run over many small chunks is stopped by Ctrl-C, with one line and the code 130."""
    pytest.importorskip("tqdm")
    path = tmp_path / "many.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.zeros((400, 2500), "f4"), chunks=(1, 10), compression="gzip")
    command = [sys.executable, "-m", "activestore", "reduce", str(path), "x", "--op", "std", "--progress"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while process.stderr.read(1) not in ("%", ""):
            pass
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.endswith("activestore: error: interrupted\n")
    assert "Traceback" not in err


@pytest.fixture
def index():
    """The index cache, with metadata of two remote files; the second is the last used."""
    cache = index_cache.default_cache()
    cache.save("https://me:passw0rd@store.example/tas.nc?sig=s1gned", size=9000, version="v1", segments={0: bytes(2000)})
    os.utime(next(cache.folder.iterdir()), (86400, 86400))
    cache.save("s3://bucket/\x1b[2Jpr.nc", size=500, version="v2", segments={0: b"a", 100: b"b"})
    return cache


def test_cache_ls(capsys, index):
    text = output(capsys, "cache", "ls")
    head, last, first = text.splitlines()
    assert head.split() == ["address", "on", "disk", "index", "last", "used"]
    assert last.startswith("s3://bucket/\\x1b[2Jpr.nc ")
    assert " 2 B " in last
    assert first.startswith("https://store.example/tas.nc  2.19 kB  2 kB   1970-01-0")
    assert output(capsys, "cache", "ls", "https://store.example/tas.nc").splitlines()[1].split() == first.split()
    assert output(capsys, "cache", "ls", "s3://me:passw0rd@none").startswith("nothing of s3://none is kept in ")


def test_cache_ls_json(capsys, index):
    found = record(capsys, "cache", "ls")
    assert (found["folder"], found["limit"]) == (str(index.folder), 2**30)
    assert found["entries"][1] == {
        "uri": "https://store.example/tas.nc",
        "size": 9000,
        "version": "v1",
        "segments": 1,
        "index_bytes": 2000,
        "disk_bytes": index.entries()[1].disk_bytes,
        "last_used": "1970-01-02T00:00:00+00:00",
    }


def test_cache_clear(capsys, index):
    assert output(capsys, "cache", "clear", "s3://bucket/none") == "0 removed; 'activestore cache ls' shows the addresses\n"
    assert output(capsys, "cache", "clear", "https://store.example/tas.nc") == "1 removed\n"
    assert output(capsys, "cache", "clear") == "1 removed\n"
    assert output(capsys, "cache", "clear") == "0 removed\n"
    assert output(capsys, "cache", "ls") == f"nothing is kept in {index.folder}\n"
    assert record(capsys, "cache", "ls")["entries"] == []


def test_cache_that_cannot_be_cleared(capsys, index, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    assert f"0 removed, 2 left; see who may write to {index.folder}" in failure(capsys, 1, "cache", "clear")


def test_cache_that_is_switched_off(capsys, monkeypatch):
    monkeypatch.setenv("ACTIVESTORE_CACHE", "off")
    for action in ("ls", "clear"):
        assert "switched off" in output(capsys, "cache", action)
    assert record(capsys, "cache", "ls") == {"folder": None, "limit": None, "entries": []}


def test_cache_explains(capsys):
    text = output(capsys, "cache")
    for part in ("usage: activestore cache", "ls", "clear", "examples:", "ACTIVESTORE_CACHE", "ACTIVESTORE_CACHE_LIMIT"):
        assert part in text
    for argv in (["cache", "--help"], ["cache", "ls", "--help"], ["cache", "clear", "--help"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        assert stop.value.code == 0
    capsys.readouterr()
    for argv in (["cache", "list"], ["cache", "clear", "a", "b"], ["cache", "clear", "--json"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_cache_of_damaged_files(capsys, index):
    for path in index.folder.iterdir():
        path.write_bytes(path.read_bytes()[:20])
    assert output(capsys, "cache", "ls") == f"nothing is kept in {index.folder}\n"
    assert output(capsys, "cache", "clear") == "2 removed\n"


def test_values_that_satisfy_a_condition(capsys, tas):
    found = record(capsys, "reduce", "tas.nc", "tas", "--op", "count,min", "--where", "> 298.15")
    right = Active("tas.nc", "tas").reduce(("count", "min"), where="> 298.15")
    assert found["values"] == {name: pytest.approx(float(value)) for name, value in right.items()}
    assert "where      > 298.15" in output(capsys, "reduce", "tas.nc", "tas", "--where", "> 298.15", "--explain")
    assert "'warm' is no condition: write" in failure(capsys, 2, "reduce", "tas.nc", "tas", "--where", "warm")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["reduce", "tas.nc", "tas", "--sel", "lat=-30:30"],
            "there is no option --sel; did you mean --select: a part, by positions",
        ),
        (["reduce", "tas.nc", "tas", "--sel=lat=-30:30"], "there is no option --sel; did you mean --select"),
        (["reduce", "--sel", "lat=-30:30", "tas.nc", "tas"], "there is no option --sel; did you mean --select"),
        (["reduce", "tas.nc", "tas", "--ax", "time"], "there is no option --ax; did you mean --axis"),
        (["reduce", "tas.nc", "tas", "--axes", "time"], "there is no option --axes; did you mean --axis"),
        (["reduce", "tas.nc", "tas", "--out", "x.nc"], "there is no option --out; did you mean --output"),
        (["reduce", "tas.nc", "tas", "--over", "-o", "x.nc"], "there is no option --over; did you mean --overwrite"),
        (["reduce", "tas.nc", "tas", "--serv", "http://127.0.0.1:9"], "there is no option --serv; did you mean --server"),
        (["reduce", "tas.nc", "tas", "--zzz"], "there is no option --zzz; see activestore reduce --help"),
        (["reduce", "tas.nc", "tas", "time"], "what is time for?; see activestore reduce --help"),
        (["inspect", "tas.nc", "--js"], "there is no option --js; did you mean --json"),
        (["backends", "--js"], "there is no option --js; did you mean --json"),
        (["cache", "ls", "--js"], "there is no option --js; did you mean --json"),
        (["serve", "--root", ".", "--tok", "x"], "there is no option --tok; did you mean --token-file"),
        (["serve", "--roo", "."], "there is no option --roo; did you mean --root"),
        (["reduce", "tas.nc", "tas", "--overwrite"], "--overwrite goes with -o"),
        (
            ["reduce", "tas.nc", "tas", "--dim", "time"],
            "--dim is the dimension along which several files are joined, and this is one",
        ),
        (["reduce", "tas.nc", "tas", "--dim", "tiem"], "no axis 'tiem'"),
        (
            ["reduce", "tas.nc", "tas", "--backend-option", "x=1"],
            "--backend-option has no effect: the backend 'posix' computes here",
        ),
        (["reduce", "tas.nc", "tas", "--backend", "posix", "--server", "http://127.0.0.1:9"], "--server has no effect"),
    ],
)
def test_no_option_is_guessed_or_passed_over(capsys, tas, given, said):
    try:
        code = cli.main(given)
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ("lat=-30:30", "lat=-30:30 goes beyond the 18 positions of the dimension, counted from 0: all 18 are taken"),
        ("lat=10:30", "lat=10:30 goes beyond the 18 positions of the dimension, counted from 0: 8 are taken, from 10 to 17"),
        ("lat=17:19", "1 is taken, from 17 to 17"),
        ("lat=-60:-30", "none are taken"),
        ("lat=30:60", "none are taken"),
        ("lat=18::-1", "all 18 are taken"),
        ("lat=:-20:-1", "all 18 are taken"),
        ("time=0:120", "time=0:120 goes beyond the 24 positions"),
    ],
)
def test_what_a_selection_leaves_out_is_said(capsys, tas, select, said):
    assert cli.main(["reduce", "tas.nc", "tas", "--op", "count", "--select", select]) == 0
    err = capsys.readouterr().err
    assert err.startswith("activestore: note: --select ")
    assert said in err


@pytest.mark.parametrize(
    "select", ["lat=0:18", "lat=-18:", "lat=18:", "lat=::-1", "lat=17:-19:-1", "lat=:", "lat=5:5", "lat=3"]
)
def test_selections_within_a_dimension_need_no_word(capsys, tas, select):
    assert record(capsys, "reduce", "tas.nc", "tas", "--op", "count", "--select", select)["variable"] == "tas"
