"""What may be refused: each is documented, and how often it occurs is counted."""

import re
from collections.abc import Mapping

from activestore.errors import ActivestoreError, SumOverflowError

__all__ = ["REFUSALS", "refusal"]

REFUSALS: Mapping[str, str] = {
    "differences of truth values, as NumPy": r"truth values have no difference",
    "positions along NaN, of nothing": r"arg(min|max) (finds no NaN|of no dimension|of nothing)",
}
"""Names, and what the message of each looks like."""


def refusal(error: Exception, *, overflows: bool) -> str | None:
    """Return the name of a refusal, None for an error that must not be."""
    if isinstance(error, SumOverflowError) or "does not fit into 64 bits" in str(error):
        return "a sum beyond 64 bits" if overflows else None
    if not isinstance(error, ActivestoreError) and type(error).__name__ != "SaidError":
        return None
    return next((name for name, pattern in REFUSALS.items() if re.search(pattern, str(error))), None)
