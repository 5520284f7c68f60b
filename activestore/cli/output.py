"""Variables, results and backends as text for people and as records for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from activestore.config import Choice, Route
from activestore.core.codecs.decode import Codec, decodable
from activestore.core.variable import Variable
from activestore.network.redaction import public_address, secret_name, secrets_hidden
from activestore.results.cf_attributes import result_units
from activestore.results.explanation import Explanation
from activestore.results.result import Report, Result

if TYPE_CHECKING:  # it is slow to import, and most commands do without
    from activestore.sources.metadata_cache import CacheEntry

__all__ = [
    "Answer",
    "Unlisted",
    "cache_record",
    "cache_table",
    "choice_record",
    "choice_table",
    "columns",
    "explanation_record",
    "plain",
    "printable",
    "result_record",
    "result_text",
    "route_record",
    "routes_table",
    "variable_page",
    "variable_record",
    "variables_table",
]

_SHOWN = 40
"""Numbers of an array above which its middle is left out."""


@dataclass(frozen=True, slots=True)
class Unlisted:
    """A variable that cannot be reduced."""

    name: str
    """Its name, with its groups."""
    reason: str
    """Why it cannot."""
    damaged: bool
    """Whether something is wrong with the file, not only with the wish to reduce it."""


def printable(text: object) -> str:
    r"""Return text without characters that steer a terminal; a file's author may have put any into an attribute.

    Examples:
        >>> print(printable("a\x1b[2Jb"))
        a\x1b[2Jb
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in str(text))


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of text below each other in columns, two spaces apart.

    Examples:
        >>> print(columns([("name", "units"), ("tas", "K")]))
        name  units
        tas   K
    """
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def plain(value: Any) -> Any:  # Any: numbers, text and arrays become what JSON has
    """Return `value` in types that strict JSON has: masked is None, and what is not finite the text "NaN" or "Infinity".

    Examples:
        >>> plain(np.ma.masked_equal([1.0, 2.0], 2)), plain(np.float32("nan")), plain(np.int64(3))
        ([1.0, None], 'NaN', 3)
    """
    if value is None or value is np.ma.masked:
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | bool):
        return value
    array = np.asanyarray(value)
    if array.dtype.kind not in "biuf":
        return [plain(item) for item in value] if isinstance(value, list | tuple) else str(value)
    found = np.ma.getdata(array).astype(object)
    if array.dtype.kind == "f":
        data = np.ma.getdata(array)
        for text, where in (("NaN", np.isnan(data)), ("Infinity", data == np.inf), ("-Infinity", data == -np.inf)):
            found[where] = text
    found[np.ma.getmaskarray(array)] = None
    return found.tolist()


def variable_record(variable: Variable) -> dict[str, Any]:  # Any: what JSON has
    """Return all that is known of a variable, for JSON."""
    stored = _stored_bytes(variable)
    packing, missing = variable.packing, variable.missing
    return {
        "name": variable.name,
        "numeric": True,
        "dims": list(variable.dims),
        "shape": list(variable.shape),
        "dtype": variable.dtype.str,
        "value_dtype": variable.value_dtype.str,
        "layout": variable.layout,
        "chunk_shape": list(variable.chunk_shape),
        "chunk_grid": list(variable.table.grid),
        "chunks": math.prod(variable.table.grid),
        "chunks_written": len(variable.table),
        "codecs": [{"id": codec.id, "filter_id": codec.filter_id, "values": list(codec.values)} for codec in variable.codecs],
        "decoded_raw": _decoded_raw(variable),
        "stored_bytes": stored,
        "decoded_bytes": variable.nbytes,
        "compression_ratio": variable.nbytes / stored if stored else None,
        "missing": plain({"values": missing.values, "valid_min": missing.valid_min, "valid_max": missing.valid_max}),
        "packing": None if packing is None else plain({"scale_factor": packing.scale, "add_offset": packing.offset}),
        "attributes": plain(variable.attrs),
    }


def variables_table(variables: Sequence[Variable | Unlisted]) -> str:
    """Return a line for each variable."""
    head = ("name", "dimensions", "type", "chunks", "layout", "codecs", "stored", "decoded", "units", "meaning")
    rows = [head, *(_row(variable) for variable in variables if isinstance(variable, Variable))]
    others = [(one.name, one.reason) for one in variables if isinstance(one, Unlisted)]
    return "\n".join(([columns(rows)] if rows[1:] else []) + ([columns(others)] if others else []))


def _row(variable: Variable) -> tuple[str, ...]:
    attrs, stored = variable.attrs, _stored_bytes(variable)
    return (
        variable.name,
        _lengths(variable.dims, variable.shape) or "scalar",
        _type(variable),
        _times(variable.chunk_shape) if variable.layout == "chunked" else "-",
        variable.layout,
        " + ".join(codec.id for codec in variable.codecs) or "-",
        "elsewhere" if stored is None else _size(stored),
        _size(variable.nbytes),
        str(attrs.get("units", "-")),
        str(attrs.get("long_name", attrs.get("standard_name", "-")))[:60],
    )


def variable_page(variable: Variable) -> str:
    """Return all that is known of a variable, over several lines."""
    stored = _stored_bytes(variable)
    chunk_bytes = math.prod(variable.chunk_shape) * variable.dtype.itemsize
    pieces = "chunks" if variable.layout == "chunked" else "pieces"
    grid, written = variable.table.grid, len(variable.table)
    by = "from their raw bytes, in parallel" if _decoded_raw(variable) else "by the HDF5 library, one at a time"
    lines = [
        ("dimensions", _lengths(variable.dims, variable.shape) or "none: a scalar"),
        ("type", f"{_type(variable)}, {_byte_order(variable.dtype)}"),
        ("layout", f"{variable.layout}, {pieces} of {_times(variable.chunk_shape)} ({_size(chunk_bytes)})"),
        (pieces, f"{_times(grid)} = {math.prod(grid):,}, {written:,} of them written; decoded {by}"),
        ("codecs", " + ".join(map(_codec, variable.codecs)) or "none"),
        ("stored", "in other files" if stored is None else f"{stored:,} bytes"),
        ("decoded", f"{variable.nbytes:,} bytes{_ratio(variable.nbytes, stored)}"),
        ("missing", _missing(variable)),
        ("packing", _packing(variable)),
    ]
    attributes = [(f"  {key}", _attribute(value)) for key, value in variable.attrs.items()]
    heading = f"{printable(variable.name)} in {printable(variable.uri)}"
    return "\n".join([heading, columns(lines), *(["attributes", columns(attributes)] if attributes else ["attributes  none"])])


def _attribute(value: object) -> str:
    if isinstance(value, np.ndarray):
        return np.array2string(value, separator=", ", threshold=_SHOWN)
    return str(value)


def _decoded_raw(variable: Variable) -> bool:
    return variable.layout not in ("virtual", "external") and decodable(variable.codecs)


def _stored_bytes(variable: Variable) -> int | None:
    """Return the bytes of a variable's chunks in its file; None where they are in other files."""
    return None if variable.layout in ("virtual", "external") else int(variable.table.size.sum())


def _ratio(decoded: int, stored: int | None) -> str:
    return f" ({decoded / stored:.2f} times the stored ones)" if stored else ""


def _missing(variable: Variable) -> str:
    missing = variable.missing
    parts = [", ".join(map(_exact, missing.values))] if missing.values else []
    parts += [f"below {_exact(missing.valid_min)}"] if missing.valid_min is not None else []
    parts += [f"above {_exact(missing.valid_max)}"] if missing.valid_max is not None else []
    parts += ["NaN"] if variable.value_dtype.kind == "f" else []
    return "; ".join(parts) or "none"


def _exact(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.9g}"


def _packing(variable: Variable) -> str:
    packing = variable.packing
    if packing is None:
        return "none"
    parts = ((" * ", packing.scale), (" + ", packing.offset))
    return "stored" + "".join(f"{sign}{_exact(number)}" for sign, number in parts if number is not None)


def _type(variable: Variable) -> str:
    stored, values = variable.dtype.newbyteorder("="), variable.value_dtype
    return str(stored) if stored == values else f"{stored} -> {values}"


def _byte_order(dtype: np.dtype[np.generic]) -> str:
    if dtype.itemsize == 1:
        return "one byte"
    return "big-endian" if dtype.newbyteorder(">") == dtype else "little-endian"


def _codec(codec: Codec) -> str:
    return f"{codec.id} (level {codec.values[0]})" if codec.id == "zlib" and codec.values else codec.id


def _lengths(dims: Sequence[str], shape: Sequence[int]) -> str:
    return ", ".join(f"{name}: {length}" for name, length in zip(dims, shape, strict=True))


def _times(shape: Sequence[int]) -> str:
    return " x ".join(f"{length:,}" for length in shape) or "1"


def _size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.3g} TB"


def cache_record(entry: CacheEntry) -> dict[str, Any]:  # Any: what JSON has
    """Return what the index cache keeps of a remote file, for JSON."""
    last_used = datetime.fromtimestamp(entry.last_used, tz=UTC)
    return {field.name: getattr(entry, field.name) for field in fields(entry)} | {"last_used": last_used.isoformat()}


def cache_table(entries: Sequence[CacheEntry]) -> str:
    """Return a line for each remote file that the index cache keeps something of; times are local."""
    head = ("address", "on disk", "index", "last used")
    times = [datetime.fromtimestamp(entry.last_used, tz=UTC).astimezone() for entry in entries]
    return columns(
        [
            head,
            *(
                (entry.uri, _size(entry.disk_bytes), _size(entry.index_bytes), f"{last_used:%Y-%m-%d %H:%M}")
                for entry, last_used in zip(entries, times, strict=True)
            ),
        ]
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of asking a server whether it is there."""

    line: str | None = None
    """What it is; None where none was asked, or none answered."""
    problem: str | None = None
    """Why nothing can be computed there; None where there is nothing wrong."""


def routes_table(routes: Sequence[Route], last: Sequence[str], *, heading: str) -> str:
    """Return a line for each route, with what `last` says of it at the end, under `heading`; secrets are hidden."""
    rows = [("route", "match", "backend", "server", "storage options", heading)]
    for route, text in zip(routes, last, strict=True):
        shown: dict[str, Any] = secrets_hidden(route.settings)
        options = ", ".join(f"{name}={_option(value)}" for name, value in shown.get("storage_options", {}).items())
        rows.append((str(route.number), route.shown, shown.get("backend", "-"), shown.get("server", "-"), options or "-", text))
    return columns(rows)


def route_record(route: Route, answer: Answer) -> dict[str, Any]:  # Any: what JSON has
    """Return a route and the answer of its server, for JSON; secrets are hidden."""
    shown: dict[str, Any] = {name: plain(value) for name, value in secrets_hidden(route.settings).items()}
    return {"number": route.number, "match": route.shown, **shown, "answer": answer.line, "problem": answer.problem}


def choice_table(choice: Choice) -> str:
    """Return a line for each setting of a source that was set: its value, and where that came from; secrets are hidden."""
    rows = [(name, _option(value), origin) for name, value, origin in _chosen(choice)]
    return columns([("setting", "value", "from"), *rows])


def choice_record(uri: str, choice: Choice, answer: Answer) -> dict[str, Any]:  # Any: what JSON has
    """Return what holds for a source, and the answer of its server, for JSON; secrets are hidden."""
    return {
        "uri": public_address(uri),
        "route": None if choice.route is None else choice.route.number,
        "settings": {name: {"value": plain(value), "from": origin} for name, value, origin in _chosen(choice)},
        "answer": answer.line,
        "problem": answer.problem,
    }


def _chosen(choice: Choice) -> list[tuple[str, object, str]]:
    """Return each setting that was set, what may be seen of its value, and where that came from."""
    settings = choice.settings
    values = secrets_hidden(
        {name: getattr(settings, name) for name in ("backend", "server", "workers", "fallback", "progress")}
    )
    for what, options in (("backend_options", settings.backend_options), ("storage_options", choice.storage_options)):
        values |= {f"{what}.{name}": value for name, value in secrets_hidden(options).items()}
    return [(name, value, settings.origins[name]) for name, value in values.items() if name in settings.origins]


def _option(value: object) -> str:
    variable = secret_name(value)
    return str(value) if variable is None else f"${variable}"


def result_record(result: Result) -> dict[str, Any]:  # Any: what JSON has
    """Return a result and its report, for JSON."""
    return {
        "source": result.report.source,
        "variable": result.report.variable,
        "dims": list(result.dims),
        "shape": list(np.shape(result.count)),
        "units": {name: _units(result, name) for name in result.values},
        "values": plain(result.values),
        "count": plain(result.count),
        "report": _record(result.report),
    }


def explanation_record(explanation: Explanation) -> dict[str, Any]:  # Any: what JSON has
    """Return what a reduction would do, for JSON."""
    return _record(explanation)


def _record(given: Explanation | Report) -> dict[str, Any]:  # Any: what JSON has
    return {field.name: plain(getattr(given, field.name)) for field in fields(given) if field.name != "plan"}


def _units(result: Result, reduction: str) -> str | None:
    units = result.plan.request.variable.attrs.get("units")
    return result_units(reduction, None if units is None else str(units))


def result_text(result: Result) -> str:
    """Return the numbers of a result with their units, arrays cut short, and its report."""
    shape = np.shape(result.count)
    if shape:
        of = _lengths(result.dims, shape)
        lines = [f"{name} ({of}){_unit_suffix(result, name)}\n{_array(value)}" for name, value in result.values.items()]
        lines += [f"{_count_range(result.count)} valid values under each number"] if np.size(result.count) else []
        if np.size(result.count) > _SHOWN:
            lines.append(f"{np.size(result.count):,} numbers: -o result.nc keeps them all, --json prints them all")
    else:
        rows = [(name, _with_units(result, name)) for name in result.values]
        lines = [columns([*rows, *([] if "count" in result.values else [("count", _number(result.count))])])]
    return "\n".join([*map(printable, lines), "", printable(result.report)])


def _with_units(result: Result, reduction: str) -> str:
    value = result.values[reduction]
    return "masked: no valid value" if value is np.ma.masked else f"{_number(value)}{_unit_suffix(result, reduction)}"


def _unit_suffix(result: Result, reduction: str) -> str:
    units = _units(result, reduction)
    return "" if units in (None, "1") else f" {units}"


def _count_range(count: Any) -> str:  # Any: an array of integers
    least, most = int(np.min(count)), int(np.max(count))
    return f"{least:,}" if least == most else f"from {least:,} to {most:,}"


def _array(value: Any) -> str:  # Any: a masked array or an array of counts
    with np.printoptions(threshold=_SHOWN, edgeitems=3, linewidth=100, formatter={"all": _cell}):
        return str(value)


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _number(value: Any) -> str:  # Any: a NumPy number
    number = np.asarray(value)
    if number.dtype.kind in "iu":
        return f"{int(number):,}"
    return f"{float(number):.{7 if number.dtype.itemsize <= 4 else 10}g}" if number.dtype.kind == "f" else str(value)
