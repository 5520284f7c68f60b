"""Modules that have moved are found by their former names."""

import importlib
import pkgutil

import pytest

from activestore import former

NAMES = [module.name for module in pkgutil.iter_modules(former.__path__)]


@pytest.mark.parametrize(
    ("name", "public"), [("index_cache", "default_cache"), ("index_cache", "IndexCache"), ("source", "open_source")]
)
def test_what_was_documented(name, public):
    assert name in NAMES
    module = importlib.import_module(f"activestore.{name}")
    with pytest.warns(DeprecationWarning, match=rf"activestore\.{name} is now {module.successor.__name__}"):
        found = getattr(module, public)
    assert found is getattr(module.successor, public)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_is_there(name):
    module = importlib.import_module(f"activestore.{name}")
    for missing in ("nothing", "_hidden"):
        with pytest.raises(AttributeError, match=missing):
            getattr(module, missing)
