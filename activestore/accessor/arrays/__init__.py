"""Lazy arrays that xarray indexes."""
