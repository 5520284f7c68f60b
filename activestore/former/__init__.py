"""Modules by their former names, found as if they lay in `activestore`: each warns and gives what its successor has."""

from __future__ import annotations
