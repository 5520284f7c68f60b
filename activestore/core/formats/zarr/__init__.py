"""Zarr stores, formats 2 and 3."""
