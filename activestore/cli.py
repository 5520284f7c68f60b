"""The command line: `activestore inspect | reduce | backends | cache | demo`."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import activestore
from activestore.active import Active
from activestore.config import Route, Settings, choose, config_file, resolve
from activestore.core.codecs import decoder_names
from activestore.core.metadata import locate, read_variable, variable_names
from activestore.core.plan import normalize_axes
from activestore.core.reductions import REDUCTIONS, Reduction, find_reduction, variance
from activestore.core.variable import Variable
from activestore.errors import (
    ActivestoreError,
    ConfigurationError,
    NotNumericError,
    ReductionError,
    SelectionError,
    UnsupportedError,
    VariableNotFoundError,
)
from activestore.listing import (
    Answer,
    Unlisted,
    cache_record,
    cache_table,
    choice_record,
    choice_table,
    columns,
    explanation_record,
    plain,
    printable,
    result_record,
    result_text,
    route_record,
    routes_table,
    variable_page,
    variable_record,
    variables_table,
)
from activestore.plugins import default_plugins
from activestore.redaction import public_address
from activestore.source import Source, open_source

__all__ = ["main", "parse_selection"]

OK, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
_USER_MISTAKES = (ConfigurationError, NotNumericError, ReductionError, SelectionError, VariableNotFoundError)

_EXIT_CODES = "exit codes: 0 done; 1 the run failed (no such file, a damaged one, …); 2 wrong usage; 130 interrupted"
_MAIN_EPILOG = f"""\
examples:
  activestore demo
  activestore inspect tas.nc
  activestore reduce tas.nc tas --op mean --axis lat,lon

'activestore COMMAND --help' explains each command.
{_EXIT_CODES}
"""
_INSPECT_EPILOG = """\
examples:
  activestore inspect tas.nc                 a line for every variable
  activestore inspect tas.nc tas             all about one: chunks, codecs, missing values, attributes
  activestore inspect tas.nc ocean/thetao    a variable of a group
  activestore inspect tas.nc --json          the same for programs
"""
_REDUCE_EPILOG = """\
examples:
  activestore reduce tas.nc tas                                          the mean of everything
  activestore reduce tas.nc tas --op min,max,std --ddof 1                several in one pass over the data
  activestore reduce tas.nc tas --axis time -o mean.nc                   a map, as a netCDF file
  activestore reduce tas.nc tas --axis lat,lon --select "time=0:120"     a series of the first 120 steps
  activestore reduce tas.nc tas --select "time=-12:,lat=[1,5,9],lon=0"   the last 12, three rows, one column
  activestore reduce tas.nc tas --axis time --explain                    what it would read; reads nothing

--select takes dimensions by name (or number): Python slices start:stop:step, positions, or lists of positions, all
counted from 0. --axis=-1 is the last dimension; without --axis all are reduced.
In the JSON, masked numbers are null and what is not finite is the text "NaN", "Infinity" or "-Infinity".
"""
_BACKENDS_EPILOG = """\
examples:
  activestore backends                             who can compute, and whether the servers of your routes answer
  activestore backends s3://bucket/tas.nc          the settings of an address, and whether its server answers
  activestore reduce tas.nc tas --backend posix

Routes are in the file that ACTIVESTORE_CONFIG names (config.toml in the user's config folder, if it is not set).
"""
_CACHE_EPILOG = """\
examples:
  activestore cache ls                                     what is kept, the last used first
  activestore cache clear                                  remove all of it
  activestore cache clear https://store.example/tas.nc     remove what is kept of one file

What is kept of a remote file is found again when the file is next opened, if it has not changed since: no metadata are
read a second time. ACTIVESTORE_CACHE is the folder (the user's cache folder, if it is not set), or "off";
ACTIVESTORE_CACHE_LIMIT is how many bytes the folder may have (1 GiB).
"""
_DEMO_EPILOG = """\
example:
  activestore demo        a few seconds; on a real file if the package ESMValTool_sample_data is installed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Parameters:
        argv: The arguments, without the program's name; those of the process by default.

    Examples:
        >>> main(["reduce", "docs/tas.nc", "tas", "--op", "count", "--json", "--select", "time=0"])  # doctest: +ELLIPSIS
        {"source": "docs/tas.nc", "variable": "tas", "dims": [], "shape": [], ..."values": {"count": 645}, ...}
        0
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(given)
    except BrokenPipeError:
        # Nobody reads on (`| head`). What is still buffered goes nowhere, so that Python does not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return _failed("interrupted", INTERRUPTED)
    except _USER_MISTAKES as error:
        return _failed(str(error), WRONG_USAGE)
    except (ActivestoreError, OSError) as error:
        return _failed(str(error), FAILED)
    except MemoryError as error:
        return _failed(f"not enough memory ({error}); reduce more dimensions, or select less", FAILED)


def _run(given: list[str]) -> int:
    try:
        arguments = _parser().parse_args(given)
        arguments.command_line = shlex.join(["activestore", *given])
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code: int = arguments.run(arguments)
        return code
    finally:
        # Here a reader that has gone is noticed, and not when Python ends.
        sys.stdout.flush()


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"activestore: warning: {' '.join(printable(message).split())}", file=sys.stderr)


def _failed(message: str, code: int) -> int:
    print(f"activestore: error: {' '.join(printable(message).split())}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others here."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"activestore: error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="activestore",
        description="Reduce variables of netCDF and HDF5 files where their bytes are.",
        epilog=_MAIN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"activestore {activestore.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, what, epilog, add_arguments, run in (
        ("inspect", "show the variables of a file, or all about one", _INSPECT_EPILOG, _add_inspect, _inspect),
        ("reduce", "compute mean, max, … of a variable or a part of it", _REDUCE_EPILOG, _add_reduce, _reduce),
        ("backends", "show who can compute, and the codecs that are decoded here", _BACKENDS_EPILOG, _add_backends, _backends),
        ("cache", "show or remove the metadata kept of remote files", _CACHE_EPILOG, _add_cache, _cache),
        ("demo", "reduce a file, check the numbers and draw them", _DEMO_EPILOG, _add_nothing, _demo),
    ):
        command = commands.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_arguments(command)
        command.set_defaults(run=run)
    return parser


def _add_nothing(command: argparse.ArgumentParser) -> None:
    """Leave a command without arguments."""


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


def _add_cache(command: argparse.ArgumentParser) -> None:
    command.set_defaults(explain=command.format_help)
    actions = command.add_subparsers(title="what to do", metavar="ACTION")
    for name, what, run in (("ls", "show what is kept", _cache_ls), ("clear", "remove what is kept", _cache_clear)):
        action = actions.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        action.add_argument("uri", metavar="URI", nargs="?", help="only of this address (all)")
        action.set_defaults(run=run)
        if run is _cache_ls:
            _add_json(action)


def _add_backends(command: argparse.ArgumentParser) -> None:
    command.add_argument("uri", metavar="URI", nargs="?", help="show the settings of this address or path instead")
    _add_json(command)


def _add_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", help="a netCDF or HDF5 file: a path, s3://bucket/key, https://…")
    command.add_argument("variable", metavar="VAR", nargs="?", help="a variable, with its groups: group/var")
    _add_store(command)
    _add_json(command)


def _add_reduce(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", metavar="FILE", help="a netCDF or HDF5 file: a path, s3://bucket/key, https://…")
    command.add_argument("variable", metavar="VAR", help="a numeric variable, with its groups: group/var")
    what = command.add_argument_group("what is computed")
    what.add_argument(
        "--op", metavar="NAME", action="append", help=f"{', '.join(REDUCTIONS)}; several parted by commas or given again (mean)"
    )
    what.add_argument("--axis", metavar="DIM", action="append", help="dimensions to reduce, by name or number (all)")
    what.add_argument("--select", metavar="PART", action="append", default=[], help='a part: "time=0:120,lat=[1,5,9],lon=0"')
    what.add_argument("--keepdims", action="store_true", help="keep reduced dimensions, with the length 1")
    what.add_argument("--no-skipna", action="store_true", help="let a NaN make the result NaN")
    what.add_argument("--ddof", metavar="N", type=float, help="taken from the count in the divisor of var and std (0)")
    how = command.add_argument_group("how")
    how.add_argument("--workers", metavar="N", type=int, help="chunks computed at once (one for each processor, if local)")
    how.add_argument("--backend", metavar="NAME", help="who computes; see 'activestore backends'")
    how.add_argument("--server", metavar="URL", help="the server that computes, for backends that have one")
    how.add_argument(
        "--backend-option", metavar="NAME=VALUE", action="append", default=[], help="an option of the backend; again for more"
    )
    how.add_argument("--explain", action="store_true", help="show what it would do, and read no data")
    how.add_argument("--progress", action="store_true", help="show a progress bar (needs tqdm)")
    _add_store(command)
    output = command.add_argument_group("output")
    either = output.add_mutually_exclusive_group()
    either.add_argument("--json", action="store_true", help="print JSON, all numbers included")
    either.add_argument("-o", "--output", metavar="FILE.nc", help="write a netCDF-4 file with coordinates and CF attributes")
    output.add_argument("--overwrite", action="store_true", help="replace the file of -o if it exists")


def _add_store(command: argparse.ArgumentParser) -> None:
    store = command.add_argument_group("the store")
    store.add_argument(
        "--storage-option",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="how the store is reached, as fsspec takes it: endpoint_url=…, anon=true; secrets belong into the environment",
    )


def _options(given: Sequence[str], flag: str) -> dict[str, object] | None:
    """Return options given as "name=value"; a value is read as JSON where it is that, as text elsewhere.

    Raises:
        ConfigurationError: There is no "=" in one.
    """
    found: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ConfigurationError(f"{flag} {name!r}: write it as NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found or None


def _inspect(arguments: argparse.Namespace) -> int:
    _, options = resolve(arguments.file, {"storage_options": _options(arguments.storage_option, "--storage-option")})
    source = open_source(arguments.file, options)
    if arguments.variable is not None:
        variable = locate(read_variable(source, arguments.variable), source)
        _print_json({"source": source.uri, **variable_record(variable)}) if arguments.json else print(variable_page(variable))
        return OK
    found = [_listed(source, name) for name in variable_names(source)]
    if arguments.json:
        records = [_unlisted_record(one) if isinstance(one, Unlisted) else variable_record(one) for one in found]
        _print_json({"source": source.uri, "bytes": source.size, "variables": records})
    else:
        print(f"{printable(source.uri)}: {source.size:,} bytes, {len(found)} variables")
        print(variables_table(found))
    return FAILED if any(isinstance(one, Unlisted) and one.damaged for one in found) else OK


def _listed(source: Source, name: str) -> Variable | Unlisted:
    try:
        return locate(read_variable(source, name), source)
    except NotNumericError:
        return Unlisted(name, "text or records, not numbers", damaged=False)
    except ActivestoreError as error:
        return Unlisted(name, str(error), damaged=not isinstance(error, UnsupportedError))


def _unlisted_record(one: Unlisted) -> dict[str, object]:
    return {"name": one.name, "numeric": False, "reason": one.reason}


def _reduce(arguments: argparse.Namespace) -> int:
    given = {
        "workers": arguments.workers,
        "backend": arguments.backend,
        "server": arguments.server,
        "storage_options": _options(arguments.storage_option, "--storage-option"),
        "backend_options": _options(arguments.backend_option, "--backend-option"),
        "progress": arguments.progress or None,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if arguments.explain and arguments.output is not None:
        raise ConfigurationError("--explain computes nothing that -o could write; give one of them")
    active = Active(arguments.file, arguments.variable, **options)
    if arguments.output is not None:
        _export().check_output(arguments.output, arguments.file, overwrite=arguments.overwrite)
    part = active[parse_selection(arguments.select, active.dims)]
    reductions = _reductions(arguments.op or ["mean"], arguments.ddof)
    axis = None if arguments.axis is None else _axes(arguments.axis, part.dims)
    skipna = not arguments.no_skipna
    if arguments.explain:
        explanation = part.explain(reductions, axis, skipna=skipna)
        _print_json(explanation_record(explanation)) if arguments.json else print(printable(explanation))
        return OK
    result = part.run(reductions, axis, keepdims=arguments.keepdims, skipna=skipna)
    if arguments.output is not None:
        _export().write_netcdf(result, arguments.output, overwrite=arguments.overwrite, history=arguments.command_line)
        print(f"{printable(arguments.output)}: written\n{printable(result.report)}")
    elif arguments.json:
        _print_json(result_record(result))
    else:
        print(result_text(result))
    return OK


def _export() -> Any:  # Any: a module
    from activestore import export  # noqa: PLC0415  # h5netcdf is slow to import, and only a file needs it

    return export


def _reductions(given: Sequence[str], ddof: float | None) -> tuple[Reduction, ...]:
    """Return the reductions that `--op` names.

    Raises:
        ReductionError: There is no such reduction, or none of them takes `--ddof`.
    """
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    if ddof is not None and not {"var", "std"} & set(names):
        raise ReductionError(f"--ddof goes with --op var or std; the reductions are {', '.join(names)}")
    return tuple(
        variance(ddof, name=name) if ddof is not None and name in ("var", "std") else find_reduction(name) for name in names
    )


def _axes(given: Sequence[str], dims: Sequence[str]) -> tuple[int | str, ...]:
    return tuple(_dimension(name.strip(), dims) for text in given for name in text.split(",") if name.strip())


def _dimension(text: str, dims: Sequence[str]) -> int | str:
    """Return a dimension as it was given, a number as a number."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,9}", text) and text not in dims else text


_PART = re.compile(r"\s*(?P<dim>[^=,\[\]]+?)\s*=\s*(?P<positions>\[[^\[\]]*\]|[^=,\[\]]+?)\s*(?:,|$)")


def parse_selection(given: Sequence[str], dims: Sequence[str]) -> tuple[slice | int | list[int], ...]:
    """Return the index that texts such as "time=0:120,lat=[1,5,9]" stand for.

    Parameters:
        given: The texts; what they say adds up.
        dims: Names of the dimensions.

    Raises:
        SelectionError: A text is not understood, or names no dimension, or one twice.

    Examples:
        >>> parse_selection(["lat=[1,5,9]", "0=::2, lon=-1"], ("time", "lat", "lon"))
        (slice(None, None, 2), [1, 5, 9], -1)
    """
    index: list[slice | int | list[int]] = [slice(None)] * len(dims)
    seen = set()
    for text in given:
        position = 0
        while position < len(text):
            match = _PART.match(text, position)
            if match is None:
                raise SelectionError(f"--select {text!r}: {text[position:]!r} is not {_FORMS}")
            (axis,) = normalize_axes(_dimension(match["dim"], dims), dims)
            if axis in seen:
                raise SelectionError(f"--select names the dimension {dims[axis]!r} twice")
            seen.add(axis)
            index[axis] = _positions(match["positions"])
            position = match.end()
    return tuple(index)


_FORMS = "dim=start:stop:step, dim=position or dim=[position,position,…]"


def _positions(text: str) -> slice | int | list[int]:
    """Return what one dimension is indexed by."""
    try:
        if text.startswith("["):
            return [int(item) for item in text[1:-1].split(",") if item.strip()]
        bounds = [int(item) if item.strip() else None for item in text.split(":")]
    except ValueError as error:
        raise SelectionError(f"--select: {text!r} does not consist of whole numbers; write {_FORMS}") from error
    if len(bounds) == 1 and bounds[0] is not None:
        return bounds[0]
    if not 2 <= len(bounds) <= 3:
        raise SelectionError(f"--select: {text!r} is no slice; write {_FORMS}")
    return slice(*bounds)


def _backends(arguments: argparse.Namespace) -> int:
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
        _print_json({"backends": listed, "broken_plugins": plugins.broken, "decoders": decoder_names(), **of_file})
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
        _print_json({"config": file.path if file.present else None, **choice_record(uri, choice, answer)})
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
    return max([_failed(problem, FAILED) for problem in problems], default=OK)


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


def _cache(arguments: argparse.Namespace) -> int:
    print(arguments.explain().rstrip())
    return OK


def _index_cache() -> Any:  # Any: the cache, whose type would have to be imported
    from activestore.index_cache import default_cache  # noqa: PLC0415  # slow to import, and only needed here

    return default_cache()


def _cache_ls(arguments: argparse.Namespace) -> int:
    cache = _index_cache()
    entries = [] if cache is None else cache.entries(arguments.uri)
    if arguments.json:
        folder, limit = (None, None) if cache is None else (str(cache.folder), cache.limit)
        _print_json({"folder": folder, "limit": limit, "entries": [cache_record(entry) for entry in entries]})
    elif cache is None:
        print(_CACHE_IS_OFF)
    elif entries:
        print(cache_table(entries))
    else:
        of = "" if arguments.uri is None else f" of {public_address(arguments.uri)}"
        print(printable(f"nothing{of} is kept in {cache.folder}"))
    return OK


def _cache_clear(arguments: argparse.Namespace) -> int:
    cache = _index_cache()
    if cache is None:
        print(_CACHE_IS_OFF)
        return OK
    removed = cache.clear(arguments.uri)
    left = len(cache.entries(arguments.uri))
    if left:
        return _failed(f"{removed} removed, {left} left; see who may write to {cache.folder}", FAILED)
    hint = "; 'activestore cache ls' shows the addresses" if arguments.uri is not None and not removed else ""
    print(f"{removed} removed{hint}")
    return OK


_CACHE_IS_OFF = "nothing is kept: the cache is switched off, or there is no folder for it; see ACTIVESTORE_CACHE"


def _demo(arguments: argparse.Namespace) -> int:
    from activestore import demo  # noqa: PLC0415  # it imports what writes files, which is slow

    return OK if demo.run() else FAILED


def _print_json(record: object) -> None:
    print(json.dumps(plain(record), allow_nan=False))
