"""An avatar as the viewer's page gets it, and what both exhibits share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from specularip.avatar import Avatar
from specularip.baking.preview import preview_harmonics
from specularip.viewer.html import page_html
from specularip.viewer.pack import pack


def packed_avatar(avatar: Avatar, title: str, clips: Sequence[Any] = ()) -> bytes:
    """The avatar for the viewer's page. One with a head gets spherical harmonics, which take a second; one
    that is baked shows what it is baked to. clips: `motion.clip.Clip`.

    Raises UserError for numbers that are not finite.
    """
    colors = avatar.colors
    if avatar.head is not None:
        colors = preview_harmonics(avatar.gaussians, avatar.head)
    return pack(
        avatar.gaussians,
        colors,
        binding=avatar.binding,
        expressions=getattr(avatar, "expressions", None),
        clips=clips,
        antialiased=avatar.antialiased,
        meta={"title": title},
    )


def title_of(avatar: Avatar, otherwise: str) -> str:
    """The text that the avatar was made from, or another name."""
    text = avatar.provenance.get("text")
    return text if isinstance(text, str) and text else otherwise


class Shown:
    """The packed avatar that a server gives, exchanged as a whole: the part of an exhibit
    (`viewer.server.Exhibit`) that is the same for all."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._lock = threading.Lock()
        self._version, self._packed, self._note = 0, None, ""  # type: int, bytes | None, str

    def put(self, packed: bytes, note: str = "") -> None:
        """From now on, this packed avatar, with this line for the user."""
        with self._lock:
            self._version, self._packed, self._note = self._version + 1, packed, note

    def say(self, note: str) -> None:
        """Another line for the user."""
        with self._lock:
            self._note = note

    def state(self) -> dict[str, Any]:
        with self._lock:
            return {"version": self._version, "note": self._note, "run": None}

    def packed(self) -> bytes | None:
        with self._lock:
            return self._packed

    def photo(self) -> bytes | None:
        return None

    def page(self) -> str | None:
        packed = self.packed()
        return None if packed is None else page_html(packed, self.title)
