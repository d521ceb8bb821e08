"""An avatar in a cell of a notebook."""

from __future__ import annotations

import html
from dataclasses import dataclass

from specularip.viewer.html import page_html


@dataclass(frozen=True)
class Framed:
    """Shows itself in Jupyter and its relatives: the self-contained page of a packed avatar in a frame, which
    has an origin of its own and no network. height: in pixels.

    The notebook's file holds the page, some 85 bytes a Gaussian.
    """

    packed: bytes
    title: str
    height: int = 480

    def _repr_html_(self) -> str:
        page = html.escape(page_html(self.packed, self.title))
        return (
            f'<iframe srcdoc="{page}" title="{html.escape(self.title)}" '
            f'sandbox="allow-scripts allow-downloads" allow="fullscreen" '
            f'style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )
