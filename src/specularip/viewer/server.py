"""The local server of the viewer's page: it shows one avatar to the people who have its address.

It serves a fixed table of answers and opens no file that a request names. Its address has a random token;
requests without it, or with a `Host` that is not this server's (a web page that lets its own name point here,
"DNS rebinding"), get an error. It binds to the loopback interface unless told otherwise.

    with ViewServer(exhibit) as server:
        print(server.url)
        server.wait()
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import secrets
import socket
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import urlsplit

from specularip.errors import UserError, first_line
from specularip.files import json_value

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of all answers: nothing inline runs, nothing comes from elsewhere."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
IDLE_SECONDS = 30
"""A connection that sends nothing for so long is closed."""

Answer = tuple[bytes, str]
"""Body and media type."""


class Exhibit(Protocol):
    """What a server shows. Its methods are called by several threads."""

    def state(self) -> dict[str, Any]:
        """The page asks for it every two seconds. JSON values:

        version: of the packed avatar, another number whenever there is another one, 0: none yet. note: a line
        for the user. run: None, or the run that makes the avatar: status (running, finished, stopped,
        failed), stage, step, steps, remaining_seconds (of the stage; None: unknown), text, photo (whether
        there is one), losses (a list of {stage, values}).
        """

    def packed(self) -> bytes | None:
        """The packed avatar (`viewer.pack`); None: none yet."""

    def photo(self) -> bytes | None:
        """A small PNG of the photo, None without one."""

    def page(self) -> str | None:
        """The avatar as a self-contained page; None: none yet."""


class ViewServer:
    """Serves `exhibit` in threads of its own from `__enter__` to `__exit__`.

    host: a name or address of this machine. port: 0 for an unused one. Raises UserError where the address
    cannot be had.
    """

    def __init__(self, exhibit: Exhibit, host: str = "127.0.0.1", port: int = 0) -> None:
        self.token = secrets.token_urlsafe(24)
        routes = _routes(exhibit)
        self.host = host

        class Handler(_Handler):
            prefix, answers, allowed = f"/{self.token}/", routes, [host]

        family = socket.AF_INET6 if ":" in host else socket.AF_INET

        class Server(_Server):
            address_family = family

        try:
            self._server = Server((host, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot serve at {host}, port {port}: {reason}") from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="viewer", daemon=True
        )
        shown = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/{self.token}/"

    def __enter__(self) -> ViewServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self) -> None:
        """Serve until Ctrl-C, which raises KeyboardInterrupt."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # in slices: on Windows, a join without a timeout holds Ctrl-C back


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _routes(exhibit: Exhibit) -> dict[str, Callable[[], Answer | None]]:
    """Every path below the token, and what answers it. None: not there (yet)."""
    assets = files("specularip") / "assets" / "viewer"

    def asset(name: str, kind: str) -> Callable[[], Answer | None]:
        content = (assets / name).read_bytes()
        return lambda: (content, kind)

    def data(read: Callable[[], bytes | None], kind: str) -> Callable[[], Answer | None]:
        return lambda: None if (content := read()) is None else (content, kind)

    def page() -> bytes | None:
        text = exhibit.page()
        return None if text is None else text.encode()

    def state() -> bytes:
        return json.dumps(json_value(exhibit.state()), allow_nan=False).encode()

    return {
        "": asset("index.html", "text/html; charset=utf-8"),
        "viewer.js": asset("viewer.js", "text/javascript; charset=utf-8"),
        "style.css": asset("style.css", "text/css; charset=utf-8"),
        "state.json": data(state, "application/json"),
        "avatar.pack": data(exhibit.packed, "application/octet-stream"),
        "photo.png": data(exhibit.photo, "image/png"),
        "share.html": data(page, "text/html; charset=utf-8"),
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line. A client that went away is no error."""
        error = sys.exception()
        if error is not None and not isinstance(error, (ConnectionError, TimeoutError)):
            print(f"viewer: {type(error).__name__}: {first_line(error)}", file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    """prefix: the path of the token. answers: see `_routes`. allowed: host names besides the loopback's."""

    prefix: str
    answers: dict[str, Callable[[], Answer | None]]
    allowed: list[str]
    server_version, sys_version = "specularip", ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        answer = self._find()
        if answer is None:
            return
        content, kind = answer
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_GET

    def _find(self) -> Answer | None:
        """What the request asks for. None: an error has been sent."""
        if not self._is_addressed_here():
            self.send_error(HTTPStatus.FORBIDDEN)
            return None
        try:
            path = urlsplit(self.path).path
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return None
        given = path[: len(self.prefix)].encode("utf-8", "replace")
        if not hmac.compare_digest(given, self.prefix.encode()):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        read = self.answers.get(path[len(self.prefix) :])
        try:
            answer = None if read is None else read()
        except Exception as error:
            print(f"viewer: {type(error).__name__}: {first_line(error)}", file=sys.stderr)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return None
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        return answer

    def _is_addressed_here(self) -> bool:
        """Whether the request has one `Host`, which is this server's: an address or a name given by the
        user, never another name, since names can be made to point here."""
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1:
            return False
        try:
            parts = urlsplit(f"//{hosts[0]}")
            name, port = parts.hostname, parts.port or 80
        except ValueError:
            return False
        if name is None or parts.path or parts.query or "@" in parts.netloc:
            return False
        if port != self.connection.getsockname()[1]:
            return False
        if name == "localhost" or name in self.allowed:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not is_loopback(self.allowed[0])

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A line of plain text. Methods other than GET and HEAD are 405, which the base class calls 501."""
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        content = f"{status.phrase}\n".encode()
        self.send_response(status)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the token is in every line."""
