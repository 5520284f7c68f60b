"""Settings: how runs are carried out. They come from a file, the environment and keyword arguments, in rising order.

The file has routes: each leads the addresses of a pattern to a backend, with its server and how the store is reached.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple

from activestore.core.backend import Backend, BackendOptions
from activestore.core.dispatch import Fallback
from activestore.errors import ConfigurationError
from activestore.network.redaction import Secret, public_address, secret_name, secret_parts, without_secrets

__all__ = ["Choice", "ConfigFile", "Route", "Settings", "choose", "config_file", "resolve"]

_LOCAL, _OF_SERVERS = "posix", "reductionist"
_ABOVE_ROUTES = ("workers", "fallback", "progress")
_IN_ROUTE = ("match", "backend", "server", "storage_options", "backend_options")
_MAPPINGS = ("storage_options", "backend_options")
_VARIABLES = ("backend", "server", "workers", "fallback", "progress", *_MAPPINGS)
_PREFIX = "ACTIVESTORE_"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_options(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "match": (_is_text, 'a pattern of addresses, such as "s3://bucket/*"'),
    "backend": (lambda value: _is_text(value) or isinstance(value, Backend), "the name of a backend, or a backend"),
    "server": (_is_text, "an address, such as https://server.example"),
    "storage_options": (_is_options, "a mapping from names to values"),
    "backend_options": (_is_options, "a mapping from names to values"),
    "workers": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
        "a whole number from 1 up",
    ),
    "executor": (lambda value: isinstance(value, Executor), "a concurrent.futures.Executor"),
    "fallback": (lambda value: value in ("local", "error"), "'local' or 'error'"),
    "progress": (lambda value: isinstance(value, bool), "true or false"),
}
"""For each setting, whether a value is one, and what to give."""


def _problem(name: str, value: object) -> str | None:
    """Return what is wrong with a setting; of values that can hold a secret, only the type is told."""
    right, expected = _EXPECTED[name]
    if right(value):
        return None
    told = name not in ("server", *_MAPPINGS) and (value is None or isinstance(value, (str, int, float)))
    return f"{name}{f'={value!r}' if told else f' is of type {type(value).__name__}'}: give {expected}"


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """How runs are carried out; checked when it is made. Neither its repr nor a pickle of it holds secrets.

    Raises:
        ConfigurationError: A setting is not understood.

    Examples:
        >>> Settings(backend="posix", workers=0)
        Traceback (most recent call last):
        ...
        activestore.errors.ConfigurationError: workers=0: give a whole number from 1 up
    """

    backend: str | Backend = _LOCAL
    """Who computes the chunks: a backend by name, or one itself."""
    server: str | None = None
    """Address of the server that computes, for backends that have one."""
    backend_options: Mapping[str, object] = field(default_factory=dict)
    """Options of the backend's own; a secret may be named in place of being written: `{"env": variable}`."""
    workers: int | None = None
    """How many batches of chunks are computed at once; None leaves it to the backend."""
    executor: Executor | None = None
    """Where they are computed; None for threads of our own."""
    fallback: Fallback = "local"
    """What happens to a chunk that the backend cannot do."""
    progress: bool = False
    """Whether a progress bar is shown."""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where each value came from, that of an option under "backend_options.name"; what is not there has its default."""

    def __post_init__(self) -> None:
        for name in ("backend", "server", "backend_options", "workers", "executor", "fallback", "progress"):
            value = getattr(self, name)
            absent = value is None and name in ("server", "workers", "executor")
            problem = None if absent else _problem(name, value)
            if problem is not None:
                raise ConfigurationError(problem)

    def __repr__(self) -> str:
        backend = self.backend if isinstance(self.backend, str) else self.backend.name
        server = None if self.server is None else public_address(self.server)
        others = ", ".join(f"{name}={getattr(self, name)!r}" for name in ("workers", "executor", "fallback", "progress"))
        return f"Settings(backend={backend!r}, server={server!r}, {others})"

    def __reduce__(self) -> tuple[Any, ...]:  # Any: pickle's own contract
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        server = None if self.server is None else public_address(self.server)
        return _restored, (values | {"server": server, "backend_options": without_secrets(self.backend_options)},)

    @property
    def for_backend(self) -> BackendOptions:
        """What the backend is opened with; secrets that are named are looked up now.

        Raises:
            ConfigurationError: The environment does not have one.
        """
        options = _with_secrets(self.backend_options, "backend_options", self.origins)
        return BackendOptions(self.server, options, self.workers)

    def changed(self, changes: Mapping[str, Any]) -> Settings:  # Any: keyword arguments of many types
        """Return these settings with others in their place, which keyword arguments gave.

        Raises:
            ConfigurationError: One is not understood.
        """
        origins = {**self.origins, **{name: _keyword(name) for name in changes}}
        changed = replace(self, **changes, origins=origins)
        _check_effect(changed.backend, changes)
        return changed


def _restored(values: dict[str, Any]) -> Settings:  # Any: fields of many types
    return Settings(**values)


def _check_effect(backend: str | Backend, given: Mapping[str, Any]) -> None:  # Any: keyword arguments of many types
    """Refuse keyword arguments that mean nothing to the backend.

    Raises:
        ConfigurationError: There is one.
    """
    for name in ("server", "backend_options"):
        if backend == _LOCAL and given.get(name):
            raise ConfigurationError(f"{name}= has no effect: the backend 'posix' computes here; leave it out, or name another")


def _keyword(name: str) -> str:
    return f"the keyword argument {name}"


class _Given(NamedTuple):
    """A value, and where it came from."""

    value: Any
    """A setting of any type."""
    origin: str
    """As messages name it."""


_Layer = Mapping[str, _Given]


@dataclass(frozen=True, slots=True)
class Route:
    """Where the addresses of a pattern lead."""

    number: int
    """Its place in the file, from 1 up."""
    match: str = field(repr=False)
    """A glob over the whole address, or over the absolute path of a local file."""
    origin: str
    """The route as messages name it, with its file."""
    settings: Mapping[str, Any] = field(repr=False)
    """What it sets: backend, server, storage_options, backend_options."""

    @property
    def shown(self) -> str:
        """Its pattern as it may be seen."""
        return _shown_match(self.match)

    def takes(self, uri: str) -> bool:
        """Return whether an address, or the path of a local file, is one of its pattern."""
        return fnmatchcase(uri if "://" in uri else os.path.abspath(os.path.expanduser(uri)), self.match)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What the user's file says."""

    path: str
    """Where it is, or would be."""
    present: bool
    """Whether it is there."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What holds for all addresses: workers, fallback, progress."""
    routes: tuple[Route, ...] = ()
    """The first that takes an address counts."""


def config_file() -> ConfigFile:
    """Return what the file says that ACTIVESTORE_CONFIG names, or else `config.toml` in the user's config folder.

    Raises:
        ConfigurationError: It cannot be read, or something in it is not understood.
    """
    path = _config_path()
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if os.environ.get(f"{_PREFIX}CONFIG"):
            why = "may not be looked at" if isinstance(error, PermissionError) else "is not there"
            raise ConfigurationError(f"{path}: {why}, and {_PREFIX}CONFIG names it; correct the name, or unset it") from None
        return ConfigFile(path, present=False)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    return _parsed(path, status.st_mtime_ns, status.st_size)


def _config_path() -> str:
    given = os.environ.get(f"{_PREFIX}CONFIG")
    if given:
        return os.path.abspath(os.path.expanduser(given))
    from platformdirs import user_config_path  # noqa: PLC0415  # slow to import

    return str(user_config_path("activestore") / "config.toml")


@lru_cache(maxsize=8)
def _parsed(path: str, modified: int, size: int) -> ConfigFile:
    """Return what a file says; once for each state of it."""
    found = _toml(path)
    _check_names(found, (*_ABOVE_ROUTES, "route"), path, elsewhere=dict.fromkeys(_IN_ROUTE, "in a [[route]]"))
    settings = {name: _checked(name, found[name], path) for name in _ABOVE_ROUTES if name in found}
    routes = found.get("route", [])
    if not isinstance(routes, list) or not all(isinstance(one, dict) for one in routes):
        raise ConfigurationError(f"{path}: route: begin each with [[route]], in two pairs of brackets")
    return ConfigFile(path, True, settings, tuple(_route(path, number, one) for number, one in enumerate(routes, 1)))


def _toml(path: str) -> dict[str, Any]:  # Any: what TOML has
    import tomllib  # noqa: PLC0415  # slow to import, and most users have no file

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        problem = f"byte {error.start + 1} is not UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem = str(error)
    # Not in the handler: the cause holds the whole text, secrets included.
    raise ConfigurationError(f"{path}: is not TOML: {problem}")


def _route(path: str, number: int, given: Mapping[str, Any]) -> Route:  # Any: what TOML has
    match = given.get("match")
    named = f"route {number} (match {_shown_match(match)!r})" if isinstance(match, str) else f"route {number}"
    where = f"{path}: {named}"
    _check_names(given, _IN_ROUTE, where, elsewhere=dict.fromkeys(_ABOVE_ROUTES, "above the routes"))
    if match is None:
        raise ConfigurationError(f"{where}: match is missing: give {_EXPECTED['match'][1]}")
    settings = {name: _checked(name, value, where) for name, value in given.items()}
    del settings["match"]
    if "server" in settings:
        settings.setdefault("backend", _OF_SERVERS)
    return Route(number, match, f"{named} of {path}", settings)


def _shown_match(match: str) -> str:
    """Return a pattern without a login that may stand in it; its question marks begin no query."""
    return public_address(match) if any(part.endswith("@") for part in secret_parts(match)) else match


def _check_names(given: Iterable[str], known: tuple[str, ...], where: str, elsewhere: Mapping[str, str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            belongs = f"it belongs {elsewhere[name]}" if name in elsewhere else advice
            raise ConfigurationError(f"{where}: unknown key {name!r}; {belongs}")


def _checked(name: str, value: Any, where: str) -> Any:  # Any: what TOML and JSON have
    problem = _problem(name, value)
    if problem is not None:
        raise ConfigurationError(f"{where}: {problem}")
    return value


def _environment(uri: str) -> dict[str, _Given]:
    """Return what the environment says; a variable that is empty counts as not set.

    Raises:
        ConfigurationError: A value is not understood, or the name of a variable is nearly one of ours.
    """
    found = {}
    for variable in os.environ:
        if variable.startswith(_PREFIX) and (text := os.environ.get(variable)):
            name = variable.removeprefix(_PREFIX).lower()
            if name in _VARIABLES:
                found[name] = _Given(_checked(name, _from_text(name, text), variable), variable)
            elif name != "config" and (near := difflib.get_close_matches(name, (*_VARIABLES, "config"), n=1, cutoff=0.8)):
                raise ConfigurationError(f"{variable}: did you mean {_PREFIX}{near[0].upper()}?")
    if "server" in found and "backend" not in found and not _is_local(uri):
        found["backend"] = _Given(_OF_SERVERS, found["server"].origin)
    return found


def _is_local(uri: str) -> bool:
    return "://" not in uri or uri.lower().startswith("file://")


def _from_text(name: str, text: str) -> Any:  # Any: settings of many types
    """Return the value that a variable's text stands for; the text itself where it stands for none."""
    if name == "workers":
        return int(text) if text.strip().isdecimal() else text
    if name == "progress":
        words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
        return words.get(text.strip().lower(), text)
    return _from_json(name, text) if name in _MAPPINGS else text


def _from_json(name: str, text: str) -> Any:  # Any: what JSON has
    import json  # noqa: PLC0415  # seldom needed

    try:
        return json.loads(text)
    except ValueError as error:
        problem = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else "no number"
    # Not in the handler: the cause holds the whole text, secrets included.
    raise ConfigurationError(f'{_PREFIX}{name.upper()}: is not JSON: {problem}; write it as {{"name": "value"}}')


@dataclass(frozen=True, slots=True)
class Choice:
    """What holds for a source."""

    settings: Settings
    """How its runs are carried out, and where each setting came from."""
    storage_options: Mapping[str, object] = field(repr=False)
    """How it is reached; secrets may be named in place of being written. `settings.origins` has where each came from."""
    route: Route | None
    """The route that it takes, if any does."""


def choose(uri: str, given: Mapping[str, Any]) -> Choice:  # Any: keyword arguments of many types
    """Return what holds for a source: keyword arguments before the environment, that before the file.

    Parameters:
        uri: Its address, or the path of a local file.
        given: Keyword arguments by name, None where the user gave nothing; `storage_options` among them.

    Raises:
        ConfigurationError: A setting is not understood, or a secret that is named is not there.
    """
    file, environment = config_file(), _environment(uri)
    route = next((one for one in file.routes if one.takes(uri)), None)
    keywords = {name: _Given(value, _keyword(name)) for name, value in given.items() if value is not None}
    for name, (value, _) in keywords.items():
        problem = _problem(name, value)
        if problem is not None:
            raise ConfigurationError(problem)
    general = {name: _Given(value, file.path) for name, value in file.settings.items()}
    routed = {} if route is None else {name: _Given(value, route.origin) for name, value in route.settings.items()}
    backend = _backend(routed, environment, keywords)
    _check_effect(backend.value, given)
    layers = [general, *(_of_backend(layer, backend.value) for layer in (routed, environment)), keywords]
    merged = _merged([*layers, {"backend": backend}])
    choice = _choice(merged, route)
    _with_secrets(choice.storage_options, "storage_options", choice.settings.origins)
    _with_secrets(choice.settings.backend_options, "backend_options", choice.settings.origins)
    return choice


def _backend(routed: _Layer, environment: _Layer, keywords: _Layer) -> _Given:
    """Return who computes: a keyword's backend, the route's, the environment's, then whoever has a server."""
    if "backend" in keywords:
        return keywords["backend"]
    for layer in (routed, environment):
        # Whoever gives a server wants it to compute, whatever is configured.
        if "backend" in layer and not ("server" in keywords and layer["backend"].value == _LOCAL):
            return layer["backend"]
    return _Given(_OF_SERVERS, keywords["server"].origin) if "server" in keywords else _Given(_LOCAL, "the default")


def _of_backend(layer: _Layer, backend: str | Backend) -> _Layer:
    """Leave out a server and options that were meant for another backend."""
    meant = layer["backend"].value if "backend" in layer else backend
    if isinstance(backend, str) and meant == backend and (backend != _LOCAL or "backend" in layer):
        return layer
    return {name: given for name, given in layer.items() if name not in ("server", "backend_options")}


def _merged(layers: Iterable[_Layer]) -> dict[str, Any]:
    """Return the last value of each setting, and of each option by its own name."""
    merged: dict[str, Any] = {name: {} for name in _MAPPINGS}  # Any: settings, or options by name
    for layer in layers:
        for name, given in layer.items():
            if name in _MAPPINGS:
                merged[name].update({key: _Given(value, given.origin) for key, value in given.value.items()})
            else:
                merged[name] = given
    return merged


def _choice(merged: dict[str, Any], route: Route | None) -> Choice:  # Any: settings, or options by name
    options = {name: merged.pop(name) for name in _MAPPINGS}
    origins = {name: given.origin for name, given in merged.items()}
    origins |= {f"{name}.{key}": given.origin for name in _MAPPINGS for key, given in options[name].items()}
    storage, of_backend = ({key: given.value for key, given in options[name].items()} for name in _MAPPINGS)
    values = {name: given.value for name, given in merged.items()}
    return Choice(Settings(**values, backend_options=of_backend, origins=origins), storage, route)


def _with_secrets(options: Mapping[str, object], what: str, origins: Mapping[str, str]) -> dict[str, object]:
    """Return the options with the environment's secrets in the place of their names; nothing in it is shared."""
    return {name: _filled(value, f"{what}.{name}", origins.get(f"{what}.{name}", "")) for name, value in options.items()}


def _filled(value: object, what: str, origin: str) -> object:
    variable = secret_name(value)
    if variable is not None:
        secret = os.environ.get(variable)
        if not secret:
            raise ConfigurationError(f"{_place(what, origin)}: the environment variable {variable} is not set")
        return Secret(secret)
    if type(value) is dict:
        if list(value) == ["env"]:
            raise ConfigurationError(f"{_place(what, origin)}.env: give the name of an environment variable")
        return {name: _filled(one, f"{what}.{name}", origin) for name, one in value.items()}
    return [_filled(one, what, origin) for one in value] if type(value) is list else value


def _place(what: str, origin: str) -> str:
    return f"{origin}: {what}" if origin else what


def resolve(uri: str, given: Mapping[str, Any]) -> tuple[Settings, dict[str, object]]:  # Any: keyword arguments of many types
    """Return the settings for a source, and the storage options that it is opened with, secrets filled in.

    Parameters:
        uri: Address of the source.
        given: Keyword arguments by name, None where the user gave nothing; `storage_options` among them.

    Raises:
        ConfigurationError: A setting is not understood, or a secret that is named is not there.

    Examples:
        >>> settings, storage_options = resolve("s3://bucket/tas.nc", {"server": "https://server.example", "workers": None})
        >>> settings.backend, settings.origins["backend"], storage_options
        ('reductionist', 'the keyword argument server', {})
    """
    choice = choose(uri, given)
    return choice.settings, _with_secrets(choice.storage_options, "storage_options", choice.settings.origins)
