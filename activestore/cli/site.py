"""The commands that look after a site: who computes, which server for which addresses, and what is kept of remote files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from activestore.cli.output import (
    Answer,
    cache_record,
    cache_table,
    choice_record,
    choice_table,
    columns,
    plain,
    printable,
    route_record,
    routes_table,
)
from activestore.cli.wording import in_words_of_the_command_line
from activestore.config import Route, Settings, choose, config_file
from activestore.core.codecs.decode import decoder_names
from activestore.errors import ActivestoreError
from activestore.network.redaction import public_address
from activestore.plugins import default_plugins

__all__ = ["FAILED", "OK", "backends", "cache_clear", "cache_ls", "failed", "print_json"]

OK, FAILED = 0, 1
"""Exit codes."""


def backends(arguments: argparse.Namespace) -> int:
    """Show who can compute, and which server answers for which addresses; return the exit code."""
    if arguments.uri is not None:
        return _settings_of(arguments.uri, as_json=arguments.json)
    plugins, file = default_plugins(), config_file()
    problems = {record.name: record.available() for record in plugins.records}
    answers = [_answer_of_route(route) for route in file.routes]
    if arguments.json:
        listed = [
            {"name": record.name, "description": record.description, "problem": problems[record.name]}
            for record in plugins.records
        ]
        routes = [route_record(*pair) for pair in zip(file.routes, answers, strict=True)]
        of_file = {"config": file.path if file.present else None, "routes": routes}
        print_json({"backends": listed, "broken_plugins": plugins.broken, "decoders": decoder_names(), **of_file})
    else:
        rows = [(record.name, problems[record.name] or "usable", record.description) for record in plugins.records]
        print(columns([("backend", "here", "what it does"), *rows]))
        if plugins.broken:
            print("\nplugins that did not load")
            print(columns([(f"  {name}", problem) for name, problem in plugins.broken.items()]))
        print("\ncodecs decoded from raw bytes, in parallel (others by the HDF5 library, one chunk at a time)")
        print(columns([(f"  {name}", "yes" if here else "needs a package") for name, here in decoder_names().items()]))
        if file.routes:
            said = [answer.line or ("no; see below" if answer.problem else "-") for answer in answers]
            print(printable(f"\nroutes of {file.path}; the first that matches counts"))
            print(routes_table(file.routes, said, heading="answer"))
    return _told(answers, [f"route {route.number}" for route in file.routes])


def _settings_of(uri: str, *, as_json: bool) -> int:
    file, choice = config_file(), choose(uri, {})
    answer = _answer(choice.settings)
    if as_json:
        print_json({"config": file.path if file.present else None, **choice_record(uri, choice, answer)})
    else:
        if file.routes:
            taken = ["taken" if route is choice.route else "also" if route.takes(uri) else "no" for route in file.routes]
            print(printable(f"routes of {file.path}; the first that matches counts"))
            print(routes_table(file.routes, taken, heading="matches"))
        else:
            print(printable(f"{file.path}: {'has no routes' if file.present else 'is not there'}"))
        print()
        print(printable(public_address(uri)))
        print(choice_table(choice))
        if answer.line is not None:
            print(printable(f"\nthe server: {answer.line}"))
    return _told([answer], [str(choice.settings.backend)])


def _told(answers: Sequence[Answer], of: Sequence[str]) -> int:
    """Say what is wrong with servers, and return the exit code."""
    problems = [f"{what}: {one.problem}" for what, one in zip(of, answers, strict=True) if one.problem is not None]
    sys.stdout.flush()
    return max([failed(problem, FAILED) for problem in problems], default=OK)


def _answer_of_route(route: Route) -> Answer:
    return _answer(Settings(**{name: value for name, value in route.settings.items() if name != "storage_options"}))


def _answer(settings: Settings) -> Answer:
    """Ask the server of these settings, if their backend has one, whether it is there."""
    try:
        record = default_plugins().find(str(settings.backend))
        unavailable = record.available()
        if unavailable is not None or record.check is None:
            return Answer(problem=unavailable)
        if settings.server is None:
            return Answer(problem="no server is set: give it in the route, in ACTIVESTORE_SERVER, or with --server")
        return Answer(record.check(settings.server, settings.for_backend.options))
    except ActivestoreError as error:
        return Answer(problem=str(error))


def _index_cache() -> Any:  # Any: the cache, whose type would have to be imported
    from activestore.sources.metadata_cache import default_cache  # noqa: PLC0415  # slow to import, and only needed here

    return default_cache()


def cache_ls(arguments: argparse.Namespace) -> int:
    """Show what is kept of the metadata of remote files; return the exit code."""
    cache = _index_cache()
    entries = [] if cache is None else cache.entries(arguments.uri)
    if arguments.json:
        folder, limit = (None, None) if cache is None else (str(cache.folder), cache.limit)
        print_json({"folder": folder, "limit": limit, "entries": [cache_record(entry) for entry in entries]})
    elif cache is None:
        print(_CACHE_IS_OFF)
    elif entries:
        print(cache_table(entries))
    else:
        of = "" if arguments.uri is None else f" of {public_address(arguments.uri)}"
        print(printable(f"nothing{of} is kept in {cache.folder}"))
    return OK


def cache_clear(arguments: argparse.Namespace) -> int:
    """Remove what is kept of the metadata of remote files; return the exit code."""
    cache = _index_cache()
    if cache is None:
        print(_CACHE_IS_OFF)
        return OK
    removed = cache.clear(arguments.uri)
    left = len(cache.entries(arguments.uri))
    if left:
        return failed(f"{removed} removed, {left} left; see who may write to {cache.folder}", FAILED)
    hint = "; 'activestore cache ls' shows the addresses" if arguments.uri is not None and not removed else ""
    print(f"{removed} removed{hint}")
    return OK


_CACHE_IS_OFF = "nothing is kept: the cache is switched off, or there is no folder for it; see ACTIVESTORE_CACHE"


def print_json(record: object) -> None:
    """Print a record as one line of JSON."""
    print(json.dumps(plain(record), allow_nan=False))


def failed(message: str, code: int) -> int:
    """Print an error as one line, and return the exit code."""
    said = in_words_of_the_command_line(message)
    print(f"activestore: error: {' '.join(printable(said).split())}", file=sys.stderr)
    return code
