"""Backends join by one hook, ours and others' alike; a broken one is named and left out."""

import logging

import pluggy
import pytest

from activestore import Active, BackendRecord, Capabilities, hookimpl
from activestore.backends.posix import PosixBackend
from activestore.errors import BackendUnavailableError, ConfigurationError
from activestore.plugins import Plugins
from activestore.testing.datasets import write_sample


class Mine(PosixBackend):
    name = "mine"
    capabilities = Capabilities()


class Plugin:
    @hookimpl
    def activestore_backends(self):
        yield BackendRecord(name="mine", open=Mine, description="a test's")
        yield BackendRecord(name="absent", open=Mine, description="never there", available=lambda: "install mystore")


class Entry:
    """An installed entry point, as importlib.metadata has it."""

    def __init__(self, name, load):
        self.name, self.load = name, load


def fail():
    raise ImportError("no module named mystore")


@pytest.fixture
def installed(monkeypatch):
    def install(*entries):
        monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: entries)
        return Plugins.installed()

    return install


@pytest.fixture
def path(tmp_path):
    write_sample(tmp_path / "tas.nc")
    return str(tmp_path / "tas.nc")


def test_built_in():
    assert [record.name for record in Plugins.built_in().records] == ["posix", "reductionist"]
    assert all(record.description and record.available() is None for record in Plugins.built_in().records)


def test_an_installed_plugin_is_used_by_name(installed, path, monkeypatch):
    found = installed(Entry("mystore", Plugin))
    assert [record.name for record in found.records] == ["posix", "reductionist", "mine", "absent"]
    monkeypatch.setattr("activestore.inputs.open.default_plugins", lambda: found)
    assert Active(path, "tas", backend="mine").run("mean").report.where == {"mine": 2}


def test_a_broken_plugin_is_named_and_left_out(installed, caplog):
    with caplog.at_level(logging.WARNING):
        found = installed(Entry("broken", fail), Entry("mystore", Plugin))
    assert [record.name for record in found.records] == ["posix", "reductionist", "mine", "absent"]
    assert found.broken == {"broken": "ImportError: no module named mystore"}
    assert "'broken' was left out" in caplog.text
    with pytest.raises(ConfigurationError, match=r"no backend 'broken'.*did not load: ImportError"):
        found.open("broken", None)


def test_a_misspelt_hook_is_named_and_left_out(installed):
    class Misspelt:
        @hookimpl
        def activestore_backend(self):
            return []

    found = installed(Entry("typo", Misspelt))
    assert "activestore_backend" in found.broken["typo"]
    assert [record.name for record in found.records] == ["posix", "reductionist"]


def test_a_name_that_is_taken_is_refused(installed):
    class Again:
        @hookimpl
        def activestore_backends(self):
            yield BackendRecord(name="posix", open=Mine, description="a second one")

    with pytest.raises(ConfigurationError, match="two plugins offer a backend called 'posix'"):
        installed(Entry("again", Again))


def test_a_record_has_to_be_one(installed):
    class Wrong:
        @hookimpl
        def activestore_backends(self):
            return [Mine]

    with pytest.raises(ConfigurationError, match="where a BackendRecord belongs"):
        installed(Entry("wrong", Wrong))


def test_what_cannot_be_used_says_why(installed):
    with pytest.raises(BackendUnavailableError, match="'absent' cannot be used here: install mystore"):
        installed(Entry("mystore", Plugin)).open("absent", None)


def test_an_unknown_name_says_what_is_near(path):
    with pytest.raises(ConfigurationError, match="no backend 'posx'; did you mean 'posix'"):
        Active(path, "tas", backend="posx")


def test_the_hook_is_pluggys():
    assert isinstance(hookimpl, pluggy.HookimplMarker)
