"""Where the values of an xarray object come from."""
