"""Every way in which it goes wrong: the right error, that says what, where, and what to try."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import netCDF4
import numpy as np
import pytest

from activestore import Active
from activestore.errors import (
    ActivestoreError,
    ConfigurationError,
    CorruptChunkError,
    NotNumericError,
    ReductionError,
    SelectionError,
    SourceError,
    SourceNotFoundError,
    SumOverflowError,
    UnsupportedError,
    VariableNotFoundError,
)

NUMBERS = np.arange(48, dtype="f4").reshape(6, 8)


def message(kind: type[ActivestoreError], builtin: type[Exception], call: Callable[[], Any]) -> str:
    """Return the message of the error that `call` raises; it is one line, and survives the way to another process."""
    with pytest.raises(kind) as caught:
        call()
    assert isinstance(caught.value, builtin)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return str(caught.value)


def sum_or_error(path: Path) -> Any:
    """Return the sum of the variable "x", None where there was an error: one of ours, that names the file."""
    try:
        return Active(path, "x").sum()
    except SumOverflowError:
        return None
    except ActivestoreError as error:
        if str(path) not in str(error):
            raise
        return None


class TestSources:
    def test_no_such_file(self, tmp_path: Path) -> None:
        path = tmp_path / "no.nc"
        said = message(SourceNotFoundError, FileNotFoundError, lambda: Active(path, "x"))
        assert said.startswith(f"{path}: no such file")

    def test_a_folder(self, tmp_path: Path) -> None:
        assert str(tmp_path) in message(SourceError, OSError, lambda: Active(tmp_path, "x"))

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="who is root may read everything")
    def test_a_file_that_may_not_be_read(self, chunked_file: Path) -> None:
        chunked_file.chmod(0)
        assert str(chunked_file) in message(SourceError, OSError, lambda: Active(chunked_file, "x"))

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "is empty"),
            (b"CDF", "is neither netCDF nor HDF5"),
            (b"CDF\x03" + bytes(100), "is neither netCDF nor HDF5"),
            (b"<html><body>404 Not Found</body></html>", "starts with b'<html><b'"),
            (b"\x89HDF", "is neither netCDF nor HDF5"),
            (bytes(5000), "is neither netCDF nor HDF5"),
            (b"PK\x03\x04" + bytes(2000), "is neither netCDF nor HDF5"),
        ],
    )
    def test_neither_netcdf_nor_hdf5(self, content: bytes, said: str, tmp_path: Path) -> None:
        path = tmp_path / "a.nc"
        path.write_bytes(content)
        found = message(SourceError, OSError, lambda: Active(path, "x"))
        assert str(path) in found
        assert said in found

    @pytest.mark.parametrize("change", ["written to", "replaced", "cut off"])
    def test_a_file_that_changed_since_it_was_opened(self, change: str, chunked_file: Path) -> None:
        active = Active(chunked_file, "x")
        if change == "written to":
            with h5py.File(chunked_file, "r+") as file:
                file["x"][0] = 1
            os.utime(chunked_file, ns=(1, 1))
        elif change == "replaced":
            other = chunked_file.with_name("other.h5")
            other.write_bytes(chunked_file.read_bytes())
            other.replace(chunked_file)
        else:
            os.truncate(chunked_file, 3000)
        said = message(SourceError, OSError, active.mean)
        assert str(chunked_file) in said
        assert "has changed since it was opened; make a new Active of it" in said

    def test_a_file_that_is_gone(self, chunked_file: Path) -> None:
        active = Active(chunked_file, "x")
        chunked_file.unlink()
        assert str(chunked_file) in message(SourceNotFoundError, FileNotFoundError, active.mean)


class TestVariables:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["temperature"] = NUMBERS
            file["ocean/salinity"] = NUMBERS
            file["title"] = "some text"
            file["names"] = np.array([b"a", b"b"])
            file["words"] = np.array(["a", "b"], h5py.string_dtype())
            file["ragged"] = np.array([np.arange(2), np.arange(3)], h5py.vlen_dtype("i4"))
            file["records"] = np.zeros(3, [("a", "i4"), ("b", "f8")])
            file["complex"] = np.zeros(3, "c16")
            file["nothing"] = h5py.Empty("f4")
        return tmp_path / "a.h5"

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("temprature", "no variable 'temprature'; did you mean 'temperature'"),
            ("TEMPERATURE", "did you mean 'temperature'"),
            ("salinity", "did you mean 'ocean/salinity'"),
            ("ocean", "no variable 'ocean'"),
            ("ocean/temperature", "did you mean"),
            ("", "no variable ''; it has: "),
            ("/", "it has: "),
            ("zzz", "it has: "),
        ],
    )
    def test_no_such_variable(self, name: str, said: str, path: Path) -> None:
        found = message(VariableNotFoundError, KeyError, lambda: Active(path, name))
        assert found.startswith(f"{path}: ")
        assert said in found

    def test_no_variables_at_all(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w"):
            pass
        said = message(VariableNotFoundError, KeyError, lambda: Active(tmp_path / "a.h5", "x"))
        assert "it has no variables" in said

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("title", "holds text"),
            ("names", "holds text"),
            ("words", "holds text"),
            ("ragged", "holds"),
            ("records", "holds values of the type"),
            ("complex", "holds values of the type complex128"),
            ("nothing", "holds"),
        ],
    )
    def test_what_is_not_numbers(self, name: str, said: str, path: Path) -> None:
        found = message(NotNumericError, TypeError, lambda: Active(path, name))
        assert f"{path}: {name!r} {said}" in found
        assert "choose a numeric variable" in found

    @pytest.mark.parametrize("container", ["NETCDF4", "NETCDF3_CLASSIC"])
    def test_characters_of_netcdf(self, container: str, tmp_path: Path) -> None:
        with netCDF4.Dataset(tmp_path / "a.nc", "w", format=container) as file:
            file.createDimension("n", 4)
            file.createVariable("label", "S1", ("n",))[:] = np.array(list("abcd"), "S1")
            file.createVariable("temperature", "f4", ("n",))
        assert "holds text" in message(NotNumericError, TypeError, lambda: Active(tmp_path / "a.nc", "label"))
        said = message(VariableNotFoundError, KeyError, lambda: Active(tmp_path / "a.nc", "temp"))
        assert "did you mean 'temperature'" in said


class TestRequests:
    @pytest.mark.parametrize("axis", [2, -3, "time", ("dim_0", "time"), 0.5, True, (0, None), b"dim_0"])
    def test_no_such_axis(self, axis: Any, chunked_file: Path) -> None:
        said = message(SelectionError, IndexError, lambda: Active(chunked_file, "x").mean(axis=axis))
        assert "no axis" in said
        assert "the dimensions are 'dim_0' (0), 'dim_1' (1)" in said

    @pytest.mark.parametrize("axis", [(0, 0), (0, -2), ("dim_0", 0), ["dim_1", "dim_1"]])
    def test_an_axis_named_twice(self, axis: Any, chunked_file: Path) -> None:
        said = message(SelectionError, IndexError, lambda: Active(chunked_file, "x").mean(axis=axis))
        assert "names an axis twice" in said

    def test_an_axis_that_an_integer_dropped(self, chunked_file: Path) -> None:
        said = message(SelectionError, IndexError, lambda: Active(chunked_file, "x")[0].mean(axis="dim_0"))
        assert "no axis 'dim_0'; the dimensions are 'dim_1' (0)" in said
        said = message(SelectionError, IndexError, lambda: Active(chunked_file, "x")[0, 0].mean(axis=0))
        assert "none: it is a scalar" in said

    @pytest.mark.parametrize(
        ("key", "said"),
        [
            (6, "axis 0: position 6 is outside its 6 positions"),
            ((0, -9), "axis 1: position -9 is outside its 8 positions"),
            ((0, 0, 0), "3 indices were given for 2 dimensions of the shape (6, 8)"),
            ([7], "axis 0: position 7 is outside"),
            (np.ones(5, bool), "a mask of the shape (5,) was given for 6 positions"),
            (1.5, "1.5 is neither an integer, a slice, a mask nor a list of integers"),
            (slice(0.5), "is not a slice of integers"),
            ("dim_0", "neither an integer"),
            (None, "cannot add dimensions"),
        ],
    )
    def test_a_selection_that_does_not_fit(self, key: Any, said: str, chunked_file: Path) -> None:
        assert said in message(SelectionError, IndexError, lambda: Active(chunked_file, "x")[key])

    def test_no_such_reduction(self, chunked_file: Path) -> None:
        active = Active(chunked_file, "x")
        assert "no reduction 'median'; there are all, any" in message(
            ReductionError, ValueError, lambda: active.reduce("median")
        )
        for twice in ((), ("mean", "mean")):
            said = message(ReductionError, ValueError, lambda given=twice: active.reduce(given))
            assert "name each reduction once, and at least one" in said
        assert "ddof='1'" in message(ReductionError, ValueError, lambda: active.var(ddof="1"))

    @pytest.mark.parametrize("chunks", [None, (1,), (3,)])
    @pytest.mark.parametrize(
        ("dtype", "numbers"), [("i8", [2**62, 2**62, 1]), ("i8", [-(2**63), -1, 0]), ("u8", [2**63, 2**63 - 1, 1])]
    )
    def test_a_sum_that_64_bits_cannot_hold(self, chunks: Any, dtype: str, numbers: list[int], tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", data=np.array(numbers, dtype), chunks=chunks)
        active = Active(tmp_path / "a.h5", "x")
        assert "does not fit into 64 bits; ask for the mean" in message(SumOverflowError, OverflowError, active.sum)
        assert active.mean() == pytest.approx(sum(numbers) / 3, rel=1e-15)
        assert (active.min(), active.max()) == (min(numbers), max(numbers))


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"workers": 0}, "workers=0"),
            ({"workers": -1}, "workers=-1"),
            ({"workers": 1.5}, "workers=1.5"),
            ({"workers": "2"}, "workers='2'"),
            ({"workers": True}, "workers=True"),
            ({"executor": "threads"}, "executor='threads'"),
            ({"executor": 4}, "executor=4"),
            ({"fallback": "lokal"}, "fallback='lokal'"),
            ({"fallback": True}, "fallback=True"),
            ({"backend": 7}, "backend=7"),
        ],
    )
    def test_an_option_that_is_not_understood(self, options: dict[str, Any], said: str, chunked_file: Path) -> None:
        assert said in message(ConfigurationError, ValueError, lambda: Active(chunked_file, "x", **options))
        active = Active(chunked_file, "x")
        assert said in message(ConfigurationError, ValueError, lambda: active.with_options(**options))

    def test_no_such_backend(self, chunked_file: Path) -> None:
        near = message(ConfigurationError, ValueError, lambda: Active(chunked_file, "x", backend="posx").mean())
        assert "no backend 'posx'; did you mean 'posix'?" in near
        far = message(ConfigurationError, ValueError, lambda: Active(chunked_file, "x", backend="cloud").mean())
        assert "no backend 'cloud'" in far
        assert "'posix'" in far


FILTERS: dict[str, Any] = {
    "gzip": {"compression": "gzip"},
    "fletcher32": {"fletcher32": True},
    "zstd": hdf5plugin.Zstd(),
    "lz4": hdf5plugin.LZ4(),
    "blosc": hdf5plugin.Blosc(),
    "blosc2": hdf5plugin.Blosc2(),
    "bzip2": hdf5plugin.BZip2(),
    "lzf": {"compression": "lzf"},
}
"""Filters that notice bytes that are not theirs. Szip takes any bytes for numbers, and has no checksum."""


class TestDamage:
    @staticmethod
    def damaged(path: Path, change: Callable[[bytearray], None], **options: Any) -> tuple[int, int]:
        """Write a file, change the second of its chunks, and return where that is and how long."""
        numbers = np.tile(np.arange(50, dtype="i4"), 8).reshape(2, 200)
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=numbers, chunks=(1, 200), **options)
            chunk = file["x"].id.get_chunk_info(1)
        raw = bytearray(path.read_bytes())
        body = raw[chunk.byte_offset : chunk.byte_offset + chunk.size]
        change(body)
        raw[chunk.byte_offset : chunk.byte_offset + chunk.size] = body
        path.write_bytes(raw)
        return chunk.byte_offset, chunk.size

    @pytest.mark.parametrize("filters", FILTERS)
    def test_a_chunk_that_was_overwritten(self, filters: str, tmp_path: Path) -> None:
        def overwrite(body: bytearray) -> None:
            body[:] = bytes(range(200, 256)) * (len(body) // 56) + bytes(len(body) % 56)

        path = tmp_path / "a.h5"
        offset, size = self.damaged(path, overwrite, **FILTERS[filters])
        active = Active(path, "x")
        said = message(CorruptChunkError, ValueError, active.sum)
        assert f"{path}: variable 'x', chunk (1, 0) (offset {offset}, {size} bytes): " in said
        assert filters.replace("gzip", "zlib") in said
        assert active[0].sum() == 4 * 50 * 49 / 2

    @pytest.mark.parametrize("filters", ["gzip", "fletcher32", "bzip2"])
    @pytest.mark.parametrize("workers", [1, 4])
    def test_one_flipped_bit(self, filters: str, workers: int, tmp_path: Path) -> None:
        def flip(body: bytearray) -> None:
            body[len(body) // 2] ^= 0x10

        self.damaged(tmp_path / "a.h5", flip, **FILTERS[filters])
        for reduction in ("count", "sum", "max", "std"):
            with pytest.raises(CorruptChunkError, match=r"variable 'x', chunk \(1, 0\)"):
                Active(tmp_path / "a.h5", "x", workers=workers).reduce(reduction)
        with pytest.raises(CorruptChunkError):
            Active(tmp_path / "a.h5", "x").read()

    def test_a_filter_that_nobody_has(self, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=NUMBERS, chunks=(3, 8), **hdf5plugin.Zstd())
            file.create_dataset("y", data=NUMBERS)
        raw = path.read_bytes()
        known, unknown = (32015).to_bytes(2, "little"), (32999).to_bytes(2, "little")
        assert raw.count(known) == 1
        path.write_bytes(raw.replace(known, unknown))
        active = Active(path, "x")
        said = message(UnsupportedError, NotImplementedError, active.mean)
        assert f"{path}: variable 'x', chunk (0, 0)" in said
        assert "HDF5 filter 32999" in said
        assert "install" in said
        assert Active(path, "y").mean() == NUMBERS.mean()

    @pytest.mark.parametrize("libver", ["earliest", "latest"])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    def test_a_truncated_hdf5_file(self, share: float, libver: str, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w", libver=libver) as file:
            file.create_dataset("x", data=np.arange(4000.0), chunks=(100,), maxshape=(None,), compression="gzip")
        os.truncate(path, int(path.stat().st_size * share))
        said = message(SourceError, OSError, lambda: Active(path, "x").sum())
        assert str(path) in said

    @pytest.mark.parametrize("container", ["NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
    @pytest.mark.parametrize("grows", [True, False])
    def test_a_truncated_classic_file(self, container: str, grows: bool, tmp_path: Path) -> None:
        path = tmp_path / "a.nc"
        with netCDF4.Dataset(path, "w", format=container) as file:
            file.createDimension("time", None if grows else 100)
            file.createDimension("n", 9)
            for name in ("x", "y"):
                file.createVariable(name, "f8", ("time", "n"))[:100] = np.arange(900.0).reshape(100, 9)
        size, right = path.stat().st_size, np.arange(900.0).sum()
        whole = path.read_bytes()
        for cut in (1, 8, 500, size // 2, size - 100, size - 60, size - 5):
            path.write_bytes(whole[:-cut])
            with pytest.raises((SourceError, CorruptChunkError), match=r"cut off|neither netCDF nor HDF5") as caught:
                Active(path, "y").sum()
            assert str(path) in str(caught.value)
            # The other variable may lie before the cut; then its sum is right.
            assert sum_or_error(path) in {right, None}

    @pytest.mark.parametrize("place", range(0, 1200, 7))
    def test_a_damaged_classic_header_never_gives_another_kind_of_error(self, place: int, tmp_path: Path) -> None:
        path = tmp_path / "a.nc"
        with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
            file.createDimension("time", None)
            variable = file.createVariable("x", "i4", ("time",))
            variable[:20] = np.arange(20)
            variable.units = "K"
        raw = bytearray(path.read_bytes())
        if place >= len(raw) * 8:
            return
        raw[place // 8] ^= 1 << place % 8
        path.write_bytes(raw)
        sum_or_error(path)

    @pytest.mark.parametrize("libver", ["earliest", "latest"])
    def test_damaged_hdf5_metadata_never_give_another_kind_of_error(self, libver: str, tmp_path: Path) -> None:
        path = tmp_path / "a.h5"
        with h5py.File(path, "w", libver=libver) as file:
            dataset = file.create_dataset("x", data=np.arange(40, dtype="i4"), chunks=(5,), maxshape=(None,))
            first = dataset.id.get_chunk_info(0).byte_offset
        whole = path.read_bytes()
        for place in range(0, len(whole), 13):
            if first <= place < first + 160:
                continue
            raw = bytearray(whole)
            raw[place] ^= 0xFF
            path.write_bytes(raw)
            sum_or_error(path)
