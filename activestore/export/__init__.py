"""Results as netCDF files."""
