"""What is said to users of Python, in the words of the command line: it is written once, and translated where it is shown."""

from __future__ import annotations

import re

__all__ = ["in_words_of_the_command_line"]

_OPTIONS = {
    "axis": "--axis",
    "backend": "--backend",
    "backend_options": "--backend-option",
    "ddof": "--ddof",
    "dim": "--dim",
    "fallback": "--fallback",
    "keepdims": "--keepdims",
    "overwrite": "--overwrite",
    "progress": "--progress",
    "server": "--server",
    "storage_options": "--storage-option",
    "where": "--where",
    "workers": "--workers",
}
_NAMES = "|".join(_OPTIONS)
# Not where it may be a part of an address, or of a file's name.
_GIVEN = re.compile(
    rf"(?<![\w/.'\"=:-])(?P<name>{_NAMES})="
    r"(?:\{(?P<map>[^{}]*)\}|'(?P<text>[^']*)'|(?P<true>True)\b|(?P<number>-?\d+)(?!\w)|(?P<dots>…)|(?=[\s,;:)]|$))"
)
_PAIR = re.compile(r"'(\w+)':\s*('[^']*'|True|False|[^,\s]+)")
_WORDS = (
    (re.compile(r"(?<![\w/.'\"=-])skipna=False\b"), "--no-skipna"),
    (re.compile(rf"\bthe keyword argument ({_NAMES})\b"), lambda found: _OPTIONS[found[1]]),
    (re.compile(r"(?<![\w/.'\"=-])(storage_options|backend_options)(?=[\s,;:)]|$)"), lambda found: _OPTIONS[found[1]]),
    (re.compile(r"\bmake a new Active of it\b"), "run the command again"),
)


def in_words_of_the_command_line(message: str) -> str:
    """Return a message whose advice names options of Python with those of the command line in their place.

    Examples:
        >>> in_words_of_the_command_line("it needs a server: server='https://…'; or use backend='posix'")
        'it needs a server: --server https://…; or use --backend posix'
        >>> in_words_of_the_command_line("give storage_options={'key': …, 'anon': True}, or name the file in backend_options")
        'give --storage-option key=… --storage-option anon=true, or name the file in --backend-option'
        >>> in_words_of_the_command_line("/data/server=a/workers=2.nc: no such file")
        '/data/server=a/workers=2.nc: no such file'
    """
    said = _GIVEN.sub(_given, message)
    for pattern, words in _WORDS:
        said = pattern.sub(words, said)
    return said


def _given(found: re.Match[str]) -> str:
    option = _OPTIONS[found["name"]]
    if found["map"] is not None:
        values = {"True": "true", "False": "false"}
        pairs = [(name, values.get(value, value.strip("'"))) for name, value in _PAIR.findall(found["map"])]
        return " ".join(f"{option} {name}={value}" for name, value in pairs) or option
    value = next((found[kind] for kind in ("text", "number", "dots") if found[kind] is not None), None)
    return option if value is None else f"{option} {value}"
