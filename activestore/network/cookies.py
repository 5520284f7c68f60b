"""Cookies, kept as long as a file is open: portals that have seen a login set one, and redirect for ever without it."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from http.cookiejar import CookieJar
from typing import Any
from urllib.request import Request

from activestore.process.forking import renew_after_fork

__all__ = ["Cookies"]

_MOST = 64
"""Cookies that are kept: a server can send as many as it likes."""


class Cookies:
    """The cookies that servers have set; each is sent to the server that set it only, as browsers do (RFC 6265)."""

    def __init__(self) -> None:
        """Begin with none."""
        self._jar = CookieJar()
        renew_after_fork(self)

    def renew(self) -> None:
        """Keep them in a forked child, behind a lock of its own."""
        known, self._jar = list(self._jar), CookieJar()
        for cookie in known:
            self._jar.set_cookie(cookie)

    def added_to(self, headers: Mapping[str, str], url: str) -> dict[str, str]:
        """Return the headers of a request with the cookies for its address, after those that are among them already."""
        if not len(self._jar):
            return dict(headers)
        request = Request(url)  # noqa: S310  # nothing is opened by it
        self._jar.add_cookie_header(request)
        own = [value for name, value in headers.items() if name.lower() == "cookie"]
        cookies = "; ".join(filter(None, [*own, request.get_header("Cookie")]))
        others = {name: value for name, value in headers.items() if name.lower() != "cookie"}
        return others | ({"Cookie": cookies} if cookies else {})

    def keep(self, url: str, headers: Any) -> None:  # Any: urllib3's, which may have a header several times
        """Keep the cookies that an answer from an address sets."""
        if "Set-Cookie" not in headers:
            return
        message = Message()
        for one in headers.getlist("Set-Cookie"):
            message.add_header("Set-Cookie", one)
        self._jar.extract_cookies(_Response(message), Request(url))  # type: ignore[arg-type]  # noqa: S310  # all that it asks for
        if len(self._jar) > _MOST:
            self._jar.clear()


class _Response:
    """What a jar looks at of an answer."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def info(self) -> Message:
        return self._message
