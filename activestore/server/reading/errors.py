"""What an origin's errors are to those who asked: the statuses and words of Reductionist, where it has them."""

from __future__ import annotations

import html
import re
from http import HTTPStatus

from activestore.network.http_client import Answer
from activestore.server.errors import RequestError
from activestore.server.location import Login, Place
from activestore.server.reading.addresses import WebAddress

__all__ = ["refusal"]

_MOST = 64 << 10
"""Bytes of an error that are looked at."""
_LONGEST = 500
"""Characters of what a store says that are passed on."""
_DENIED = frozenset(
    {
        "AccessDenied",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "XAdminUserNotFound",
    }
)
"""What stores say of logins, with 403, with 400 of temporary keys that have lapsed, some with 404 of keys that are unknown."""
_ARCHIVED = "InvalidObjectState"
"""What they say, with the status 403, of an object that has to be brought back from an archive first."""
_WORDS = {
    "AccessDenied": "Access Denied",
    "NoSuchKey": "The specified key does not exist.",
}
"""What stores say, for answers that say nothing."""
_REGION = re.compile(r"[a-z0-9-]{1,64}")


def refusal(answer: Answer, place: Place, address: WebAddress) -> RequestError:
    """Return the error that an origin's answer stands for."""
    if answer.status == 412:
        return RequestError(409, f"{address.public}: has changed", kind="origin")
    store = place.interface_type == "s3"
    code, causes = _said(answer, place.login) if store else ("", ())
    what = "error retrieving object from S3 storage" if store else "HTTP request error"
    message = f"{what}: {address.public}: the origin answers {_status(answer)}{_advice(answer, store)}"
    if answer.status >= 500 or answer.status == 429:
        return RequestError(502, message, causes, kind="origin")
    if code in _DENIED or (store and answer.status in (401, 403) and code != _ARCHIVED):
        return RequestError(401, message, causes, kind="unauthorized")
    return RequestError(400, message, causes, kind="origin")


def _status(answer: Answer) -> str:
    try:
        return f"{answer.status} {HTTPStatus(answer.status).phrase}"
    except ValueError:
        return str(answer.status)


def _advice(answer: Answer, store: bool) -> str:
    region = answer.headers.get("x-amz-bucket-region", "")
    where = f"; its bucket is in the region {region}" if store and _REGION.fullmatch(region) else ""
    return f"{where}; redirects are not followed, so say where this one leads to" if 300 <= answer.status < 400 else where


def _said(answer: Answer, login: Login | None) -> tuple[str, tuple[str, ...]]:
    """Return the code of what a store answers, and its words."""
    code = _element(answer, "Code", login)
    code = code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) else ""
    if not code:
        code = {401: "AccessDenied", 403: "AccessDenied", 404: "NoSuchKey"}.get(answer.status, "")
    words = _element(answer, "Message", login) or _WORDS.get(code, "")
    return code, tuple(one for one in (code, words) if one)


def _element(answer: Answer, name: str, login: Login | None) -> str:
    """Return the text of an element of S3's XML, without what of the login may stand in it; empty if there is none."""
    found = re.search(f"<{name}>([^<]*)</{name}>", answer.body[:_MOST].decode(errors="replace"))
    text = "" if found is None else "".join(one for one in html.unescape(found[1]) if one.isprintable())
    for secret in () if login is None else (login.password, login.session_token, login.user):
        text = text.replace(secret, "***") if secret else text
    return text[:_LONGEST]
