"""Sample files that are written on the spot."""

from __future__ import annotations

import os

import h5netcdf
import numpy as np

__all__ = ["write_sample"]


def write_sample(path: str | os.PathLike[str]) -> None:
    """Write a small netCDF-4 file: `tas(time: 24, lat: 18, lon: 36)` in K, two chunks, with coordinates and missing values.

    The numbers are a formula's: warm at the equator, a yearly cycle that grows towards the poles.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_sample(folder + "/tas.nc")
    """
    time = np.arange(24) * 30.4375 + 15
    lat, lon = np.arange(-85.0, 90.0, 10.0), np.arange(5.0, 360.0, 10.0)
    season = np.sin(2 * np.pi * time / 365.25)[:, None, None] * np.sin(np.deg2rad(lat))[:, None]
    tas = 250 + 48 * np.cos(np.deg2rad(lat))[:, None] - 15 * season + 3 * np.cos(np.deg2rad(2 * lon))
    with h5netcdf.File(path, "w") as file:
        file.attrs["Conventions"] = "CF-1.10"
        file.attrs["title"] = "A sample of surface air temperature, made by a formula"
        file.dimensions = {"time": len(time), "lat": len(lat), "lon": len(lon)}
        axes = (
            ("time", time, "days since 2001-01-01", "time"),
            ("lat", lat, "degrees_north", "latitude"),
            ("lon", lon, "degrees_east", "longitude"),
        )
        for name, values, units, standard_name in axes:
            axis = file.create_variable(name, (name,), "f8", data=values)
            axis.attrs["units"], axis.attrs["standard_name"] = units, standard_name
        variable = file.create_variable(
            "tas",
            ("time", "lat", "lon"),
            "f4",
            fillvalue=np.float32(1e20),
            chunks=(12, 18, 36),
            compression="gzip",
            compression_opts=4,
            shuffle=True,
        )
        variable.attrs["standard_name"], variable.attrs["units"] = "air_temperature", "K"
        tas[:, 0, :3] = 1e20
        variable[...] = tas.astype("f4")
