"""Results as netCDF files."""

from __future__ import annotations

from activestore.export.netcdf import check_output, write_netcdf

__all__ = ["check_output", "write_netcdf"]
