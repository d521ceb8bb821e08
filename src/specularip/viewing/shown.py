"""What a server shows: the part that is the same for all exhibits."""

from __future__ import annotations

import threading
from typing import Any

from specularip.viewer.html import page_html


class Shown:
    """An exhibit (`viewer.server.Exhibit`) whose packed avatar is exchanged as a whole."""

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
