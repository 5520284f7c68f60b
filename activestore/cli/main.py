"""The command line: `activestore inspect | reduce | backends | cache | serve | demo`."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import activestore
from activestore.active import Active
from activestore.cli.arguments import axes_of, clipped, options_of, parse_selection, reductions_of
from activestore.cli.output import (
    Unlisted,
    explanation_record,
    printable,
    result_record,
    result_text,
    variable_page,
    variable_record,
    variables_table,
)
from activestore.cli.secrets import message_without_secrets, shown_command
from activestore.cli.serve import SERVE_EPILOG, add_serve, serve
from activestore.cli.site import FAILED, OK, backends, cache_clear, cache_ls, failed, print_json
from activestore.cli.wording import in_words_of_the_command_line
from activestore.config import resolve
from activestore.core.formats.read import locate, read_variable, variable_names
from activestore.core.reductions import REDUCTIONS
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
from activestore.inputs.paths import files_of
from activestore.sources.open import Source, open_source

__all__ = ["main"]

WRONG_USAGE, INTERRUPTED = 2, 130
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
  activestore reduce "tas_*.nc" tas --axis time                          many files as one, joined along time
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
        return failed("interrupted", INTERRUPTED)
    except _USER_MISTAKES as error:
        return failed(message_without_secrets(str(error), given), WRONG_USAGE)
    except (ActivestoreError, OSError) as error:
        return failed(message_without_secrets(str(error), given), FAILED)
    except MemoryError as error:
        return failed(f"not enough memory ({error}); reduce more dimensions, or select less", FAILED)


def _run(given: list[str]) -> int:
    try:
        arguments = _parser().parse_args(given)
        arguments.given = given
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code: int = arguments.run(arguments)
        return code
    finally:
        # Here a reader that has gone is noticed, and not when Python ends.
        sys.stdout.flush()


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    said = in_words_of_the_command_line(str(message))
    print(f"activestore: warning: {' '.join(printable(said).split())}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """A parser that takes options by their whole names; its errors are one line, without the secrets of addresses."""

    _given: Sequence[str] = ()

    def __init__(self, **kwargs: Any) -> None:  # Any: argparse's own options
        """Make a parser, as argparse does."""
        super().__init__(**kwargs, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # Any: argparse's own contract
        """Parse all arguments: none is left for others, so that each command tells of its own options."""
        self._given = sys.argv[1:] if args is None else list(args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return found, unknown

    def _unknown(self, given: Sequence[str]) -> str:
        option = next((text.partition("=")[0] for text in given if text.startswith("-")), None)
        if option is None:
            return f"what is {' '.join(given)} for?"
        names = {name: action for action in self._actions for name in action.option_strings}
        near = [name for name in names if name.startswith(option)] or difflib.get_close_matches(option, names, n=1)
        if not near:
            return f"there is no option {option}"
        return f"there is no option {option}; did you mean {near[0]}: {names[near[0]].help}?"

    def error(self, message: str) -> NoReturn:
        said = message_without_secrets(message, self._given)
        self.exit(WRONG_USAGE, f"activestore: error: {said}; see {self.prog} --help\n")


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
        ("backends", "show who can compute, and the codecs that are decoded here", _BACKENDS_EPILOG, _add_backends, backends),
        ("cache", "show or remove the metadata kept of remote files", _CACHE_EPILOG, _add_cache, _cache),
        ("serve", "reduce chunks for others, beside a disk or a store", SERVE_EPILOG, add_serve, serve),
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
    for name, what, run in (("ls", "show what is kept", cache_ls), ("clear", "remove what is kept", cache_clear)):
        action = actions.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        action.add_argument("uri", metavar="URI", nargs="?", help="only of this address (all)")
        action.set_defaults(run=run)
        if run is cache_ls:
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
    command.add_argument(
        "file", metavar="FILE", help='a netCDF or HDF5 file: a path, s3://bucket/key, https://…; several: "tas_*.nc", folder/'
    )
    command.add_argument("variable", metavar="VAR", help="a numeric variable, with its groups: group/var")
    what = command.add_argument_group("what is computed")
    what.add_argument(
        "--op", metavar="NAME", action="append", help=f"{', '.join(REDUCTIONS)}; several parted by commas or given again (mean)"
    )
    what.add_argument("--axis", metavar="DIM", action="append", help="dimensions to reduce, by name or number (all)")
    what.add_argument(
        "--select",
        metavar="PART",
        action="append",
        default=[],
        help='a part, by positions counted from 0: "time=0:120,lat=[1,5,9],lon=0"',
    )
    what.add_argument("--dim", metavar="DIM", help="the dimension along which several files are joined (where they differ)")
    what.add_argument("--where", metavar="CONDITION", help='leave out other values: "> 298.15", ">= 273.15 and < 300", "!= 0"')
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
    how.add_argument(
        "--fallback",
        metavar="HOW",
        help="what becomes of chunks that the backend cannot do: local (computed here) or error (local)",
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


def _inspect(arguments: argparse.Namespace) -> int:
    given = {"storage_options": options_of(arguments.storage_option, "--storage-option")}
    files = files_of(arguments.file, lambda address: resolve(address, given)[1])
    if len(files) > 1:
        raise ConfigurationError(f"{arguments.file}: are {len(files):,} files; inspect one of them, such as {files[0]}")
    file = str(files[0])
    source = open_source(file, resolve(file, given)[1])
    if arguments.variable is not None:
        variable = locate(read_variable(source, arguments.variable), source)
        print_json({"source": source.uri, **variable_record(variable)}) if arguments.json else print(variable_page(variable))
        return OK
    found = [_listed(source, name) for name in variable_names(source)]
    if arguments.json:
        records = [_unlisted_record(one) if isinstance(one, Unlisted) else variable_record(one) for one in found]
        print_json({"source": source.uri, "bytes": source.size, "variables": records})
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
        "fallback": arguments.fallback,
        "storage_options": options_of(arguments.storage_option, "--storage-option"),
        "backend_options": options_of(arguments.backend_option, "--backend-option"),
        "progress": arguments.progress or None,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if arguments.overwrite and arguments.output is None:
        raise ConfigurationError("--overwrite goes with -o, which names the file")
    if arguments.explain and arguments.output is not None:
        raise ConfigurationError("--explain computes nothing that -o could write; give one of them")
    if arguments.output == "-":
        raise ConfigurationError("-o -: a netCDF file cannot be written to the standard output; name a file, or take --json")
    active = Active(arguments.file, arguments.variable, dim=arguments.dim, **options)
    if arguments.output is not None:
        _export().check_output(arguments.output, active.sources, overwrite=arguments.overwrite)
    selection = parse_selection(arguments.select, active.dims)
    for text in clipped(selection, active.dims, active.shape):
        print(f"activestore: note: --select {text}", file=sys.stderr)
    part = active[selection]
    reductions = reductions_of(arguments.op or ["mean"], arguments.ddof)
    axis = None if arguments.axis is None else axes_of(arguments.axis, part.dims)
    skipna = not arguments.no_skipna
    if arguments.explain:
        explanation = part.explain(reductions, axis, skipna=skipna, where=arguments.where)
        print_json(explanation_record(explanation)) if arguments.json else print(printable(explanation))
        return OK
    result = part.run(reductions, axis, keepdims=arguments.keepdims, skipna=skipna, where=arguments.where)
    if arguments.output is not None:
        _export().write_netcdf(result, arguments.output, overwrite=arguments.overwrite, history=shown_command(arguments.given))
        print(f"{printable(arguments.output)}: written\n{printable(result.report)}")
    elif arguments.json:
        print_json(result_record(result))
    else:
        print(result_text(result))
    return OK


def _export() -> Any:  # Any: a module
    from activestore.export import netcdf as export  # noqa: PLC0415  # h5netcdf is slow to import, and only a file needs it

    return export


def _cache(arguments: argparse.Namespace) -> int:
    print(arguments.explain().rstrip())
    return OK


def _demo(arguments: argparse.Namespace) -> int:
    from activestore.cli import demo  # noqa: PLC0415  # it imports what writes files, which is slow

    return OK if demo.run() else FAILED
