"""The JSON of a request, read strictly: what Python's reader alone lets pass is an error, and so are values of other types.

Source: RFC 8259; and serde_json, whose types the fields of Reductionist's protocol have.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar
from urllib.parse import quote, urlsplit

from activestore.server.errors import RequestError

__all__ = [
    "I64",
    "U64",
    "Read",
    "address",
    "escaped",
    "flag",
    "invalid",
    "items",
    "one_of",
    "optional",
    "printable",
    "read_object",
    "shown",
    "some_text",
    "tagged",
    "unsigned",
    "whole",
]

I64, U64 = 1 << 63, 1 << 64
"""How many integers there are below 0, and in all, of 64 bits."""
_LONGEST_NUMBER = 1000
_HOST = re.compile(r"([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?")

Value = TypeVar("Value")
Read = Callable[[object, str], Value]
"""Makes a value of what JSON says; the second is the name of the field."""


def invalid(field: str, what: str) -> RequestError:
    """Return the error that a field is wrong."""
    return RequestError(400, "request data is not valid", (f"{field}: {what}",))


def read_object(body: bytes, known: Iterable[str]) -> dict[str, object]:
    """Return the fields of a JSON object, all of them known and none twice.

    Numbers are as the protocol has them: what fits neither 64-bit type is a float, and so is -0.

    Raises:
        RequestError: The body is something else.

    Examples:
        >>> read_object(b'{"size": 12}', {"size", "shape"})
        {'size': 12}
        >>> read_object(b'{"size": 12, "sise": 3}', {"size", "shape"})
        Traceback (most recent call last):
        ...
        activestore.server.errors.RequestError: request data is not valid body: unknown field 'sise', ...
    """
    try:
        found = json.loads(
            body.decode(), object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
        )
    except (ValueError, RecursionError) as error:
        where = f" ({error.msg} at character {error.pos})" if isinstance(error, json.JSONDecodeError) else ""
        raise invalid("body", f"it is not JSON{where}") from None
    if not isinstance(found, dict):
        raise invalid("body", "it is not a JSON object")
    for name in found:
        if name not in known:
            raise invalid("body", f"unknown field {shown(name)}, expected one of {', '.join(sorted(known))}")
    return found


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise invalid("body", f"duplicate field {shown(name)}")
        found[name] = value
    return found


def _integer(text: str) -> int | float:
    """Return a JSON integer; what fits neither 64-bit type is a float to the protocol, and so is -0."""
    if text == "-0" or len(text) > 20:
        return _float(text)
    number = int(text)
    return number if -I64 <= number < U64 else float(number)


def _float(text: str) -> float:
    number = float(text) if len(text) <= _LONGEST_NUMBER else math.inf
    if math.isinf(number):
        raise invalid("body", f"number out of range: {shown(text)}")
    return number


def _constant(text: str) -> NoReturn:
    raise invalid("body", f"{text} is not JSON")


def shown(value: object) -> str:
    """Return a value for a message: printable, and not long."""
    text = ascii(value if isinstance(value, (str, int, float, type(None))) else type(value).__name__)
    return text if len(text) <= 60 else f"{text[:57]}..."


def printable(text: str) -> str:
    r"""Return a text that somebody sent for a message: printable, and not long.

    Examples:
        >>> printable("medi\tan" * 20)
        'medi?anmedi?anmedi?anmedi?anmedi?anmedi?'
    """
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text[:40])


def optional(read: Read[Value], fields: dict[str, object], name: str) -> Value | None:
    """Return a field as `read` makes it, None where it is left out or null."""
    return None if fields.get(name) is None else read(fields[name], name)


def one_of(names: tuple[str, ...]) -> Read[str]:
    """Return what reads one of these names."""

    def read(value: object, field: str) -> str:
        if value is None:
            raise invalid(field, "missing field")
        if not isinstance(value, str) or value not in names:
            raise invalid(field, f"it must be one of {', '.join(names)}, not {shown(value)}")
        return value

    return read


def some_text(value: object, field: str) -> str:
    """Return a text that is not empty."""
    if value is None:
        raise invalid(field, "missing field")
    if not isinstance(value, str) or not value:
        # What is in it may be a secret.
        raise invalid(field, "it must be a text that is not empty")
    return value


def escaped(text: str, field: str, safe: str) -> str:
    """Return the text in ASCII, everything but letters, digits and what is `safe` percent-encoded."""
    try:
        return quote(text, safe=safe)
    except UnicodeEncodeError:
        raise invalid(field, "it is not Unicode") from None


def address(value: object, field: str, *, file: bool) -> str:
    """Return an address in ASCII, without a fragment."""
    text = some_text(value, field)
    if any(char < " " or char == "\x7f" for char in text):
        raise invalid(field, "it has control characters")
    text = escaped(text, field, "".join(map(chr, range(33, 127)))).partition("#")[0]
    try:
        parts = urlsplit(text)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        raise invalid(field, "it is not an address") from None
    if file:
        if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
            raise invalid(field, "it must be file:///path")
        return text
    if "@" in parts.netloc:
        raise invalid(field, "it has a login in it; send that in the header Authorization")
    if parts.scheme not in ("http", "https") or not port_fits or not _HOST.fullmatch(parts.netloc):
        raise invalid(field, "it must be http://host or https://host and what follows")
    return text


def whole(value: object, field: str, *, least: int, most: int) -> int:
    """Return an integer within limits; neither true nor 1.0 is one."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise invalid(field, f"it must be an integer from {least} to {most}, not {shown(value)}")
    return value


def unsigned(value: object, field: str) -> int:
    """Return an integer of 64 bits without a sign."""
    return whole(value, field, least=0, most=U64 - 1)


def items(value: object, field: str, most: int) -> list[object]:
    """Return a list that is not too long."""
    if not isinstance(value, list):
        raise invalid(field, f"it must be a list, not {shown(value)}")
    if len(value) > most:
        raise invalid(field, f"it has {len(value)} items, and may have {most}")
    return value


def tagged(value: object, field: str) -> dict[str, object]:
    """Return an object that names a codec by its id; what else it says, a level for instance, is for the writer."""
    if not isinstance(value, dict) or "id" not in value:
        raise invalid(field, 'it must be an object with an id: {"id": …}')
    return value


def flag(fields: dict[str, object], name: str) -> bool:
    """Return a field that is true or false, and is false where it is left out or null."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(name, f"it must be true or false, not {shown(value)}")
    return bool(value)
