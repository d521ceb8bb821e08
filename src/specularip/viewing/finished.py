"""`specularip view`: a finished avatar, with spherical harmonics until it is baked in the background."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from specularip.avatar import Avatar, load
from specularip.errors import first_line
from specularip.motion.clip import Clip
from specularip.progress import Progress
from specularip.viewer.server import ViewServer, is_loopback
from specularip.viewing.bake_cache import bake_and_keep, file_for, fingerprint, kept
from specularip.viewing.clips import clips_for
from specularip.viewing.shown import Shown


class Stopped(Exception):
    """The server ends: baking stops."""


class BakeProgress(Progress):
    """Tells the page how far baking is. Its steps raise Stopped once `stop` is set."""

    def __init__(self, shown: Shown, stop: threading.Event) -> None:
        super().__init__()
        self._shown_on, self._stop = shown, stop

    def log(self, text: str) -> None:
        pass

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self._total = total
        self.step(done)

    def step(self, done: int, loss: float | None = None) -> None:
        if self._stop.is_set():
            raise Stopped
        self._shown_on.say(f"Highlights are approximate; exact ones are at {100 * done // self._total} %")


def show_avatar(shown: Shown, avatar: Avatar, source: Path, clips: Sequence[Clip]) -> Baking | None:
    """Show the avatar read from `source` at its best: as it is, or as it was baked before. One that has to be
    baked is shown with spherical harmonics meanwhile."""
    mark = "" if avatar.head is None else fingerprint(avatar)
    file = file_for(source, mark)
    if avatar.head is not None:
        avatar = kept(avatar, file, mark) or avatar
    packed = avatar.packed(shown.title, clips)
    if avatar.head is None:
        shown.put(packed)
        return None
    shown.put(packed, "Highlights are approximate; exact ones are being computed")
    return Baking(shown, avatar, file, mark, clips)


class Baking:
    """Bakes an avatar in a thread, keeps the result in `file`, and shows it."""

    def __init__(self, shown: Shown, avatar: Avatar, file: Path, mark: str, clips: Sequence[Clip]) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._bake, args=(shown, avatar, file, mark, clips), name="bake", daemon=True
        )
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until the avatar is baked."""
        self._thread.join()

    def end(self) -> None:
        """Stop at the next step. Where that is far off, end the process: Python's own exit would abort in the
        native code that the thread runs."""
        self._stop.set()
        self._thread.join(1.0)
        if self._thread.is_alive():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def _bake(self, shown: Shown, avatar: Avatar, file: Path, mark: str, clips: Sequence[Clip]) -> None:
        try:
            baked, problem = bake_and_keep(avatar, file, mark, BakeProgress(shown, self._stop))
            shown.put(baked.packed(shown.title, clips))
        except Stopped:
            return
        except Exception as error:  # the page goes on with what it has
            shown.say(f"Highlights are approximate; baking failed: {first_line(error)}")
            return
        if problem:
            print(f"the baked highlights are not kept: {problem}", file=sys.stderr)


def view(
    source: Path,
    motions: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 0,
    open_browser: bool = True,
) -> None:
    """Serve the page of the avatar at `source` until Ctrl-C. motions: see `clips_for`.

    Raises UserError for files that cannot be read and an address that cannot be had.
    """
    avatar = load(source)
    clips = clips_for(avatar.binding, motions)
    shown = Shown(avatar.title)
    with ViewServer(shown, host, port) as server:
        announce(server, open_browser)
        serve(server, shown, avatar, source, clips)


def serve(server: ViewServer, shown: Shown, avatar: Avatar, source: Path, clips: Sequence[Clip]) -> None:
    """`show_avatar`, until Ctrl-C. Ends what still bakes, perhaps with the process."""
    baking = None
    try:
        baking = show_avatar(shown, avatar, source, clips)
        server.wait()
    except KeyboardInterrupt:
        print("stopped")
    if baking is not None:
        baking.end()


def announce(server: ViewServer, open_browser: bool) -> None:
    """Print the address, with a warning where others can reach it, and open it in a browser with windows."""
    if not is_loopback(server.host):
        print(
            f"warning: other machines can reach {server.host}: whoever has this address sees the avatar, "
            "which is sent unencrypted",
            file=sys.stderr,
        )
    print(f"{server.url}\nCtrl-C ends it", flush=True)
    if open_browser and _has_windows():
        webbrowser.open(server.url)


def _has_windows() -> bool:
    """Whether a browser with windows can be had; else one in the terminal would be started."""
    return sys.platform in ("win32", "darwin") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
