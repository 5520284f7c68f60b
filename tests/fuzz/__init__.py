"""A differential fuzz: other writers' files, asked through every door, beside NumPy, netCDF4-python and xarray.

`python -m tests.fuzz --seconds 120 --seed 1` runs it. Case `i` of seed `s` is always the same: `--seed s --case i`.
"""

import hdf5plugin  # noqa: F401  # before netCDF4: its filters take the HDF5 library that they find first
