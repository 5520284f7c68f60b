"""HDF5 files with one odd variable, type, link or attribute: the others are read and reduced, and what is left out is named."""

import warnings

import fsspec
import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr
from h5py import h5d, h5s, h5t

from activestore import Active
from activestore.core.formats.read import variable_names
from activestore.sources.open import open_source


def committed(dtype):
    def add(group):
        group["t"] = dtype
        group.create_dataset("odd", (3,), dtype=group["t"])

    return add


def three_bytes(group):
    stored = h5t.STD_I32LE.copy()
    stored.set_size(3)
    h5d.create(group.id, b"odd", stored, h5s.create_simple((3,)))


def null_scale(group):
    group.create_dataset("odd", data=h5py.Empty("f4"))
    group["odd"].attrs["CLASS"] = np.bytes_("DIMENSION_SCALE")


def null_scale_beside_a_real_one(group):
    null_scale(group)
    group["x"] = np.arange(3.0)
    group["x"].make_scale()
    group["tas"].dims[0].attach_scale(group["x"])


def lists(group):
    group.create_dataset("odd", (3,), h5py.vlen_dtype("f4"))[0] = [1, 2]


def references(group):
    group.create_dataset("odd", (3,), h5py.ref_dtype)[0] = group["tas"].ref


def reference_as_attribute(group):
    group["tas"].attrs["odd"] = group["tas"].ref
    group["tas"].attrs["units"] = "K"


def half_labelled(group):
    group["x"] = np.arange(3.0)
    group["x"].make_scale()
    group["odd"] = np.zeros((3, 2))
    group["odd"].dims[0].attach_scale(group["x"])


def scale_that_was_deleted(group):
    group["x"] = np.arange(3.0)
    group["x"].make_scale()
    group["odd"] = np.zeros(3)
    group["odd"].dims[0].attach_scale(group["x"])
    del group["x"]


def number_where_a_name_is_kept(group):
    group["odd"] = np.zeros(3)
    group["odd"].make_scale()
    group["odd"].attrs["NAME"] = 4


def number_for_dimensions(group):
    group["odd"] = np.zeros(3)
    group["odd"].attrs["DIMENSION_LIST"] = 5


def scale_of(shape):
    def add(group):
        group["odd"] = np.zeros(shape)
        group["odd"].attrs["CLASS"] = np.bytes_("DIMENSION_SCALE")

    return add


def link_to_itself(group):
    group["odd"] = h5py.SoftLink("odd")


def group_in_itself(group):
    group.create_group("group")["odd"] = group


def link(target):
    return lambda group: group.__setitem__("odd", target)


ODD = {
    "committed number type": (committed(np.dtype("<f4")), True),
    "committed record type": (committed(np.dtype([("a", "i4")])), True),
    "committed enumeration": (committed(h5py.enum_dtype({"a": 1}, "i1")), True),
    "committed lists": (committed(h5py.vlen_dtype("f4")), True),
    "committed text": (committed(h5py.string_dtype()), True),
    "committed text of a length": (committed(np.dtype("S4")), True),
    "committed opaque type": (committed(np.dtype("V4")), True),
    "committed array type": (committed(np.dtype(("f4", (2,)))), False),
    "integers of three bytes": (three_bytes, False),
    "null scale": (null_scale, False),
    "null scale beside a real one": (null_scale_beside_a_real_one, False),
    "nothing": (lambda group: group.create_dataset("odd", data=h5py.Empty("f4")), False),
    "lists": (lists, True),
    "references": (references, True),
    "reference as attribute": (reference_as_attribute, None),
    "records": (lambda group: group.__setitem__("odd", np.zeros(3, [("a", "i4"), ("b", "f8", (2,))])), True),
    "half of the dimensions labelled": (half_labelled, True),
    "scale that was deleted": (scale_that_was_deleted, False),
    "number where a name is kept": (number_where_a_name_is_kept, True),
    "number for dimensions": (number_for_dimensions, False),
    "scale without a dimension": (scale_of(()), False),
    "scale of two dimensions": (scale_of((2, 3)), False),
    "link to itself": (link_to_itself, False),
    "group in itself": (group_in_itself, None),
    "link to nothing": (link(h5py.SoftLink("/no/such")), False),
    "link to no file": (link(h5py.ExternalLink("missing.h5", "/x")), False),
    "name that is no text": (lambda group: group.__setitem__(b"\xff\xfe", np.arange(3)), False),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "odd.h5"


def write(path, add, *, group="/"):
    with h5py.File(path, "w") as file:
        file["fine"] = np.arange(3.0)
        own = file.require_group(group)
        own["tas"] = np.array([1, 2, 6], "f4")
        add(own)


def opened(address, **options):
    """Open a file, and return what the engine says is left out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = xr.open_dataset(address, engine="activestore", **options)
    return dataset, [str(one.message) for one in caught]


@pytest.mark.parametrize("kind", ODD)
def test_one_odd_thing_spoils_no_other_variable(path, kind):
    add, is_there = ODD[kind]
    write(path, add)
    assert Active(path, "tas").mean() == 3
    assert {"fine", "tas"} <= set(variable_names(open_source(path)))
    fsspec.filesystem("memory").pipe("/odd.h5", path.read_bytes())
    for address in (path, "memory://odd.h5"):
        dataset, said = opened(address)
        assert {"fine", "tas"} <= set(dataset.variables)
        assert dataset.tas.active.mean().item() == 3 == dataset.tas.values.mean()
        if is_there is not None:
            assert ("odd" in dataset.variables) is is_there
            assert len(said) == (not is_there)
        if is_there is False:
            assert "is left out: " in said[0]
            assert str(address) in said[0]


@pytest.mark.parametrize("kind", ODD)
def test_in_a_group_and_in_a_tree(path, kind):
    add, _ = ODD[kind]
    write(path, add, group="sub")
    dataset, _ = opened(path, group="sub")
    assert dataset.tas.active.mean().item() == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        tree = xr.open_datatree(path, engine="activestore")
    assert tree["sub"].tas.values.mean() == 3
    assert tree.fine.values.sum() == 3


def test_numbers_of_a_committed_type_are_reduced(path):
    with h5py.File(path, "w") as file:
        file["t"] = np.dtype("<f4")
        file.create_dataset("v", data=[1, 2, 3, 6], dtype=file["t"])
    dataset, said = opened(path)
    assert not said
    assert dataset.v.active.mean().item() == 3
    assert dataset.v.dtype == np.dtype("f4")


def test_attributes_beside_one_that_is_a_reference(path):
    write(path, reference_as_attribute)
    dataset, said = opened(path)
    assert (dataset.tas.attrs, said) == ({"units": "K"}, [])


@pytest.mark.parametrize("key", [..., 1, -1, slice(1, None), [2, 0]])
def test_lists_are_those_that_netcdf4_reads(tmp_path, key):
    path = tmp_path / "lists.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 3)
        variable = file.createVariable("lists", file.createVLType("f4", "list_t"), ("x",))
        for i in range(3):
            variable[i] = np.arange(i + 2, dtype="f4")
        file.createVariable("tas", "f4", ("x",))[:] = [1, 2, 6]
    dataset, said = opened(path)
    assert not said
    assert dataset.tas.active.mean().item() == 3
    with xr.open_dataset(path, engine="netcdf4") as theirs:
        found, wanted = dataset.lists[key].values, theirs.lists[key].values
    assert found.dtype == object
    if found.shape:
        assert [list(one) for one in found] == [list(one) for one in wanted]
    else:
        # One that is selected is the only item of an array without dimensions; netCDF4's engine gives the list itself.
        assert list(found.item()) == list(wanted)


def test_one_list_alone(path):
    write(path, lambda group: group.create_dataset("odd", (), h5py.vlen_dtype("f4")).__setitem__((), np.array([1, 2], "f4")))
    dataset, said = opened(path)
    assert not said
    assert dataset.odd.values.item().tolist() == [1, 2]


def test_a_remote_file_with_numbers_in_others(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.arange(3.0)
    with h5py.File(path, "w") as file:
        file["y"] = np.arange(3.0)
        file["link"] = h5py.ExternalLink("other.h5", "/x")
    dataset, said = opened(path)
    assert (set(dataset.variables), said) == ({"y", "link"}, [])
    fsspec.filesystem("memory").pipe("/linked.h5", path.read_bytes())
    dataset, said = opened("memory://linked.h5")
    assert (set(dataset.variables), len(said)) == ({"y"}, 1)
    assert "'link' is left out" in said[0]


@pytest.mark.parametrize("value", [5, ["x", 1], [[1, 2], [3]], {"a": 1}, None])
def test_coordinates_that_are_no_text(tmp_path, value):
    path = tmp_path / "odd.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name in ("tas", "odd"):
        array = group.create_array(
            name, shape=(3,), dtype="f4", attributes={"_ARRAY_DIMENSIONS": ["x"], "ragged": [[1, 2], [3]]}
        )
        array[:] = [1, 2, 6]
    group["odd"].attrs["coordinates"] = value
    with pytest.warns(UserWarning, match="'odd' is left out: .*its coordinates are no text.*decode_cf=False"):
        dataset = xr.open_dataset(path, engine="activestore")
    assert dataset.tas.active.mean().item() == 3
    assert dataset.tas.attrs["ragged"] == [[1, 2], [3]]
    assert "odd" not in dataset.variables
    for option in ("decode_cf", "decode_coords"):
        assert xr.open_dataset(path, engine="activestore", **{option: False}).odd.active.mean().item() == 3
