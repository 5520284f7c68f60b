"""Series of files with one variable that hypothesis makes up: alike in their dimensions, and in nothing else."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from hypothesis import strategies as st

__all__ = ["NAME", "Member", "members", "reference", "write"]

NAME = "x"
OTHERS = (4, 3)
"""Lengths of the dimensions along which files are not joined."""
_CLASSIC_TYPES = ("i1", "i2", "i4", "f4", "f8")
_NETCDF4_TYPES = (*_CLASSIC_TYPES, "u1", "u2", "u4", "i8", "u8")


@dataclass(frozen=True)
class Member:
    """One file of a series."""

    length: int
    """Along the joint dimension."""
    dtype: str
    seed: int
    container: str = "NETCDF4"
    chunks: tuple[int, int, int] | None = None
    endian: str = "native"
    scale: float | None = None
    offset: float | None = None
    narrow: bool = False
    """Whether scale and offset are of single precision."""
    fill: float | None = None
    valid_max: float | None = None
    missing: float = 0.2
    """Which share of the numbers is missing."""
    nan: float = 0.0
    """Which share of floating-point numbers is NaN."""


def _packing(draw: st.DrawFn, dtype: str) -> dict[str, float | bool | None]:
    if draw(st.integers(0, 2)):
        return {}
    scale = draw(st.sampled_from([None, 0.5, -0.25, 0.1, 2.0]))
    offset = draw(st.sampled_from([None, 10.0, -3.5]))
    return {"scale": scale, "offset": offset, "narrow": draw(st.booleans())} if dtype[0] in "iu" else {}


@st.composite
def members(draw: st.DrawFn, *, axis: int = 0) -> tuple[Member, ...]:
    """Draw a series of one to five files to be joined along `axis`; its first dimension is unlimited."""
    found = []
    kinds = draw(st.sampled_from([("f4",), ("i2",), ("f4", "f8"), ("i2", "i4"), ("i8", "u4"), ("i8", "f4"), _NETCDF4_TYPES]))
    for _ in range(draw(st.integers(1, 5))):
        dtype = draw(st.sampled_from(kinds))
        container = draw(st.sampled_from(["NETCDF4", "NETCDF3_64BIT_OFFSET"] if dtype in _CLASSIC_TYPES else ["NETCDF4"]))
        length = draw(st.integers(0 if axis == 0 else 1, 6))
        chunks = None
        if container == "NETCDF4" and draw(st.booleans()):
            chunks = (draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        found.append(
            Member(
                length=length,
                dtype=dtype,
                seed=draw(st.integers(0, 9)),
                container=container,
                chunks=chunks,
                endian=draw(st.sampled_from(["native", "big"])) if container == "NETCDF4" else "native",
                fill=draw(st.sampled_from([None, 0, 7, 100])),
                valid_max=draw(st.sampled_from([None, None, 90])),
                missing=draw(st.sampled_from([0.0, 0.3, 1.0])),
                nan=draw(st.sampled_from([0.0, 0.0, 0.2])),
                **_packing(draw, dtype),
            )
        )
    return tuple(found)


def shape_of(member: Member, axis: int) -> tuple[int, ...]:
    """Return the shape of a file's variable."""
    return (*OTHERS[:axis], member.length, *OTHERS[axis:])


def write(member: Member, path: Path, *, axis: int = 0) -> None:
    """Write one file of a series."""
    random = np.random.default_rng(member.seed)
    shape = shape_of(member, axis)
    with netCDF4.Dataset(path, "w", format=member.container) as file:
        for i, (name, length) in enumerate(zip("abc", shape, strict=True)):
            file.createDimension(name, None if i == 0 else length)
        options: dict[str, Any] = {}
        if member.chunks is not None:
            chunks = [member.chunks[0], *(min(pair) for pair in zip(member.chunks[1:], shape[1:], strict=True))]
            options = {"chunksizes": chunks, "zlib": True}
        options |= {"fill_value": member.fill, "endian": member.endian}
        stored_as = np.dtype(member.dtype).newbyteorder({"native": "=", "big": ">"}[member.endian])
        variable = file.createVariable(NAME, stored_as, tuple("abc"), **options)
        factor = np.float32 if member.narrow else np.float64
        if member.scale is not None:
            variable.scale_factor = factor(member.scale)
        if member.offset is not None:
            variable.add_offset = factor(member.offset)
        if member.valid_max is not None:
            variable.valid_max = np.dtype(member.dtype).type(member.valid_max)
        variable.set_auto_maskandscale(False)
        stored = random.integers(0, 120, shape).astype(member.dtype)
        if member.dtype[0] in "if":
            stored -= np.dtype(member.dtype).type(20)
        if member.dtype[1] == "8":
            stored += stored * np.dtype(member.dtype).type(1 << 40)
        if member.dtype[0] == "f":
            stored[random.random(shape) < member.nan] = np.nan
        gone = netCDF4.default_fillvals[member.dtype] if member.fill is None else member.fill
        stored[random.random(shape) < member.missing] = gone
        variable[: shape[0]] = stored


def reference(paths: list[Path], axis: int) -> np.ma.MaskedArray:
    """Return the values as netCDF4-python and NumPy give them together."""
    arrays = []
    for path in paths:
        with netCDF4.Dataset(path) as file:
            arrays.append(np.ma.asanyarray(file[NAME][...]))
    return np.ma.concatenate(arrays, axis=axis)


def scale_of(series: tuple[Member, ...]) -> float:
    """Return the largest number on the way to a value."""
    return max(2e14 * abs(one.scale or 1.0) + abs(one.offset or 0.0) if one.dtype[1] == "8" else 1e3 for one in series)


def shorter(member: Member, length: int) -> Member:
    """Return the file with another length."""
    return replace(member, length=length)
