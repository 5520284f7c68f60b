"""xarray's own tests of its engines, run on ours: the files are written by others, every file is read by us."""

import warnings
from collections.abc import Mapping
from types import MappingProxyType

import pytest
import xarray as xr

with warnings.catch_warnings(), xr.set_options(warn_for_unclosed_files=False):
    warnings.simplefilter("ignore")  # xarray.tests asks many packages for their versions, and sets an option of xarray's
    import xarray.tests as theirs
    from xarray.tests import conftest, test_backends, test_backends_datatree

# What xarray's own tests are given beside their classes.
use_dask, time_unit = conftest.use_dask, conftest.time_unit
create_test_datatree, simple_datatree = conftest.create_test_datatree, conftest.simple_datatree
unaligned_datatree_nc = test_backends_datatree.unaligned_datatree_nc

OBJECTS = "the engine opens paths and addresses, not bytes or files that are open"
NETCDF4_OPTION = "auto_complex is an option of netCDF4-python's"
NETCDF4_ENCODING = "the encoding has h5netcdf's words for filters; the values are compared in test_engine_files.py"
PHONY = "h5netcdf's warning of a default that it changed"
OTHER_FILES = "tests another engine"
OVER_WHAT_IS_OPEN = "writes over the file that it has open, which is refused before xarray looks at the encoding"
WHILE_WRITTEN = "reads a file that is open for writing, which is refused"
NO_PLUGIN = "needs pytest-asyncio, and loading without threads, which no engine for netCDF files has"


class Reading:
    """Lets the engine open whatever the tests open with any engine of xarray's own for netCDF files."""

    least = 60
    """At least so many tests run."""
    signature: bytes | None = None
    """What the files begin with that are written."""

    def __init_subclass__(cls, *, excluded: Mapping[str, str] = MappingProxyType({})) -> None:
        """Leave out the tests with the names in `excluded`, which says why they do not apply."""
        cls.excluded = excluded
        for name in excluded:
            setattr(cls, name, None)

    @pytest.fixture(autouse=True)
    def every_file_is_opened_by_the_engine(self, monkeypatch, tmp_path):
        from xarray.backends import plugins

        monkeypatch.chdir(tmp_path)  # some write where they are

        find = plugins.get_backend
        named = {"netcdf4", "h5netcdf", "scipy"}
        monkeypatch.setattr(plugins, "get_backend", lambda name: find("activestore" if name in named else name))

    def save(self, dataset, path, **options):
        written = super().save(dataset, path, **options)
        if self.signature is not None:
            with open(path, "rb") as file:
                assert file.read(len(self.signature)) == self.signature
        return written


class TestWrittenByNetcdf4(
    Reading,
    test_backends.TestNetCDF4Data,
    excluded={
        "test_byte_attrs": "attributes that are no text are as h5netcdf reads them",
        "test_compression_encoding": NETCDF4_ENCODING,
        "test_roundtrip_complex": NETCDF4_OPTION,
    },
):
    signature = b"\x89HDF"


class TestWrittenByNetcdf4WithDask(Reading, test_backends.TestNetCDF4ViaDaskData, excluded=TestWrittenByNetcdf4.excluded):
    pass


class TestWrittenByH5netcdf(Reading, test_backends.TestH5NetCDFData, excluded={"test_phony_dims_warning": PHONY}):
    signature = b"\x89HDF"


class TestClassicModel(Reading, test_backends.TestNetCDF4ClassicViaNetCDF4Data):
    signature = b"\x89HDF"


class TestClassicModelWrittenByH5netcdf(Reading, test_backends.TestNetCDF4ClassicViaH5NetCDFData):
    signature = b"\x89HDF"


class TestCdf1(Reading, test_backends.TestNetCDF3ViaNetCDF4Data):
    signature = b"CDF\x01"


class TestCdf5(Reading, test_backends.TestNetCDF3ViaNetCDF4Data):
    file_format = "NETCDF3_64BIT_DATA"
    signature = b"CDF\x05"


class TestWrittenByScipy(
    Reading,
    test_backends.TestScipyFilePath,
    excluded={"test_roundtrip_example_1_netcdf_gz": "SciPy's engine alone unpacks .gz", "test_nc4_scipy": OTHER_FILES},
):
    pass


class TestCdf2(
    Reading,
    test_backends.TestGenericNetCDFData,
    excluded={
        "test_engine": OTHER_FILES,
        "test_roundtrip_via_bytes": OBJECTS,
        "test_roundtrip_via_file_object": OBJECTS,
    },
):
    signature = b"CDF\x02"


class TestDask(Reading, test_backends.TestDask, excluded={"test_load_async": NO_PLUGIN}):
    pass


class TestManyFiles(Reading, test_backends.TestOpenMFDatasetWithDataVarsAndCoordsKw):
    least = 8


class TestTreeWrittenByNetcdf4(
    Reading,
    test_backends_datatree.TestNetCDF4DatatreeIO,
    excluded={
        "test_compute_false": WHILE_WRITTEN,
        "test_netcdf_encoding": OVER_WHAT_IS_OPEN,
        "test_roundtrip_via_memoryview": OBJECTS,
    },
):
    least = 9


class TestTreeWrittenByH5netcdf(
    Reading,
    test_backends_datatree.TestH5NetCDFDatatreeIO,
    excluded={
        "test_compute_false": WHILE_WRITTEN,
        "test_netcdf_encoding": OVER_WHAT_IS_OPEN,
        "test_default_write_engine": "is about writing alone, without what can be imported",
        "test_phony_dims_warning": PHONY,
        "test_roundtrip_using_filelike_object": OBJECTS,
        "test_roundtrip_via_memoryview": OBJECTS,
    },
):
    least = 8


class TestUnalignedTree(
    Reading,
    test_backends_datatree.TestGenericNetCDFIO,
    excluded={
        "test_compute_false": WHILE_WRITTEN,
        "test_netcdf_encoding": OVER_WHAT_IS_OPEN,
        "test_memoryview_write_h5netcdf_read_netcdf4": OBJECTS,
        "test_memoryview_write_netcdf4_read_h5netcdf": OBJECTS,
        "test_roundtrip_via_memoryview": OBJECTS,
    },
):
    least = 11


@pytest.mark.parametrize("mixin", Reading.__subclasses__(), ids=lambda mixin: mixin.__name__)
def test_the_mixins_are_there(mixin):
    """What is excluded exists, and what is left runs: nothing is left out without being seen."""
    base = mixin.__mro__[2]
    assert [name for name in mixin.excluded if not callable(getattr(base, name, None))] == []
    functions = [getattr(mixin, name) for name in dir(mixin) if name.startswith("test_")]
    assert sum(one is not None and not is_skipped(one) and not is_skipped(mixin) for one in functions) >= mixin.least


def is_skipped(marked):
    marks = getattr(marked, "pytestmark", [])
    return any(mark.name == "skip" or (mark.name == "skipif" and any(mark.args)) for mark in marks)


def test_what_xarray_tests_with_is_installed():
    """Without these, many of xarray's tests skip themselves."""
    assert theirs.has_netCDF4
    assert theirs.has_h5netcdf
    assert theirs.has_scipy
    assert theirs.has_dask
    assert theirs.has_cftime
