"""What a server says of itself at `/.well-known/reductionist-schema`."""

from __future__ import annotations

from typing import Any

from activestore.core.codecs.decode import decoder_names
from activestore.core.reductions import COMPONENTS
from activestore.core.wire.encode import FEATURES
from activestore.core.wire.template import DTYPES
from activestore.server.protocol.request import DTYPES as PLAIN_DTYPES
from activestore.server.protocol.request import OPERATIONS
from activestore.server.settings import ServerSettings

__all__ = ["EXTENSION_PATH", "SCHEMA_PATH", "schema"]

SCHEMA_PATH = "/.well-known/reductionist-schema"
EXTENSION_PATH = "/activestore/v1/reduce"


def schema(settings: ServerSettings, *, version: str, interface_types: tuple[str, ...]) -> dict[str, Any]:
    """Return what the server speaks, computes and decodes, and its limits, as plain values.

    Parameters:
        settings: What the operator decided.
        version: The version of this package.
        interface_types: The kinds of origins that may be read.
    """
    decoders = sorted(name for name, installed in decoder_names().items() if installed)
    return {
        "server": "activestore",
        "version": version,
        "protocols": ["v1", "v2"] if settings.v1 else ["v2"],
        "operations": list(OPERATIONS),
        "dtypes": list(PLAIN_DTYPES),
        "codecs": [name for name in ("zlib", "gzip", "blosc2", "shuffle") if name in decoders],
        "limits": {
            "request_bytes": settings.largest_request,
            "chunk_bytes": settings.largest_chunk,
            "workers": settings.workers,
        },
        "extension": {
            "path": EXTENSION_PATH,
            "components": sorted(COMPONENTS),
            "dtypes": sorted(DTYPES),
            "codecs": decoders,
            "interface_types": list(interface_types),
            "most_tasks": settings.most_tasks,
            "features": list(FEATURES),
        },
    }
