"""Self-contained pages: the viewer and one avatar in one .html, which opens from disk, without a network."""

from __future__ import annotations

import base64
import hashlib
import html
import os
from importlib.resources import files
from pathlib import Path

from specularip.errors import escaped
from specularip.files import write_bytes


def page_html(packed: bytes, title: str) -> str:
    """The text of a page that shows a packed avatar. Its content-security policy lets nothing run but the
    viewer's own script, and allows no network."""
    assets = files("specularip") / "assets" / "viewer"
    script = (assets / "viewer.js").read_text("utf-8")
    style = (assets / "style.css").read_text("utf-8")
    page = (assets / "index.html").read_text("utf-8")
    policy = (
        f"default-src 'none'; script-src '{policy_hash(script)}'; style-src '{policy_hash(style)}'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    data = base64.b64encode(packed).decode("ascii")
    parts = {
        '<meta charset="utf-8">': '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        "<title>SpecularIP</title>": f"<title>{html.escape(escaped(title))}</title>",
        '<link rel="stylesheet" href="style.css">': f"<style>{style}</style>",
        '<script src="viewer.js" defer></script>': '<script type="application/octet-stream" id="avatar-data">'
        f"{data}</script>\n<script>{script}</script>",
    }
    for place, content in parts.items():
        before, found, after = page.partition(place)
        assert found, f"index.html has no {place}"
        page = before + content + after
    return page


def write_html(path: str | os.PathLike[str], packed: bytes, title: str) -> Path:
    """Write `page_html`, atomically. Raises UserError where nothing can be written."""
    return write_bytes(path, page_html(packed, title).encode())


def policy_hash(text: str) -> str:
    """What a content-security policy allows an inline script or style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
