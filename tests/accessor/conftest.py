"""Markers that xarray's own tests are marked with, which pytest has to know before they are imported."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known: they are strict."""
    for marker in ("asyncio", "flaky", "mypy", "network", "skip_if_param", "skip_with_dask_array", "slow"):
        config.addinivalue_line("markers", f"{marker}: of xarray's own tests")
