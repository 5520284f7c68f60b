"""The plugin manager: finds backends, ours and others', and is the only caller of the hook."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable
from functools import cache

import pluggy

from activestore import hookspecs
from activestore.backends import posix, reductionist
from activestore.core.backend import Backend, BackendOptions, BackendRecord
from activestore.core.source import ReadableSource
from activestore.errors import BackendUnavailableError, ConfigurationError

__all__ = ["Plugins", "default_plugins"]

_LOG = logging.getLogger(__name__)


class Plugins:
    """The known backends by name.

    Examples:
        >>> [record.name for record in Plugins.built_in().records]
        ['posix', 'reductionist']
    """

    def __init__(self, manager: pluggy.PluginManager, broken: dict[str, str]) -> None:
        """Ask every plugin of `manager` for its backends; `broken` says which plugins did not load, and why."""
        manager.check_pending()
        self.broken = broken
        self._records: dict[str, BackendRecord] = {}
        for records in reversed(manager.hook.activestore_backends()):
            self._take(records)

    @classmethod
    def built_in(cls) -> Plugins:
        """Return the backends that come with the package."""
        return cls(_manager(), {})

    @classmethod
    def installed(cls) -> Plugins:
        """Return the built-in backends and those of every installed plugin; one that fails to load is named and left out."""
        from importlib.metadata import entry_points  # noqa: PLC0415  # takes as long as half of this package

        manager, broken = _manager(), {}
        for entry in entry_points(group="activestore"):
            try:
                manager.register(entry.load(), entry.name)
                manager.check_pending()
            except Exception as error:  # noqa: BLE001  # a plugin may fail in any way, and must not take the package with it
                broken[entry.name] = f"{type(error).__name__}: {error}"
                manager.unregister(name=entry.name)
                _LOG.warning("the plugin %r was left out: %s", entry.name, broken[entry.name])
        return cls(manager, broken)

    def _take(self, records: Iterable[BackendRecord]) -> None:
        for record in records:
            if not isinstance(record, BackendRecord):
                raise ConfigurationError(f"a plugin gave {record!r} where a BackendRecord belongs")
            if record.name in self._records:
                raise ConfigurationError(f"two plugins offer a backend called {record.name!r}; uninstall one of them")
            self._records[record.name] = record

    @property
    def records(self) -> tuple[BackendRecord, ...]:
        """Every backend's record."""
        return tuple(self._records.values())

    def find(self, name: str) -> BackendRecord:
        """Return the record of the backend `name`.

        Raises:
            ConfigurationError: There is none of that name; the message has the one that is near.
        """
        record = self._records.get(name)
        if record is None:
            near = difflib.get_close_matches(name, self._records, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, self._records))}"
            broken = f" (the plugin {name!r} did not load: {self.broken[name]})" if name in self.broken else ""
            raise ConfigurationError(f"no backend {name!r}; {advice}{broken}")
        return record

    def open(self, name: str, source: ReadableSource, options: BackendOptions | None = None) -> Backend:
        """Return the backend `name`, opened for `source`.

        Raises:
            ConfigurationError: There is none of that name.
            BackendUnavailableError: It cannot be used here.
        """
        record = self.find(name)
        problem = record.available()
        if problem is not None:
            raise BackendUnavailableError(f"the backend {name!r} cannot be used here: {problem}")
        return record.open(source, BackendOptions() if options is None else options)


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("activestore")
    manager.add_hookspecs(hookspecs)
    manager.register(posix, "posix")
    manager.register(reductionist, "reductionist")
    return manager


@cache
def default_plugins() -> Plugins:
    """Return the installed backends; looked for once a process."""
    return Plugins.installed()
