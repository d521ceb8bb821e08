"""The viewer's server: whom it answers, with what headers, and that nothing else can be had from it."""

from __future__ import annotations

import http.client
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from specularip.errors import UserError
from specularip.viewer.server import HEADERS, ViewServer, is_loopback

FILES = ("", "viewer.js", "style.css", "state.json", "avatar.pack", "share.html")


class Vase:
    """An exhibit with nothing to it."""

    broken = False
    content = b"packed"

    def state(self) -> dict[str, object]:
        if self.broken:
            raise RuntimeError("the vase fell")
        return {"version": 1, "note": "", "run": None}

    def packed(self) -> bytes | None:
        return self.content

    def photo(self) -> bytes | None:
        return None

    def page(self) -> str | None:
        return "<!doctype html>"


@pytest.fixture
def vase() -> Vase:
    return Vase()


@pytest.fixture
def server(vase: Vase) -> Iterator[ViewServer]:
    with ViewServer(vase) as running:
        yield running


def ask(
    server: ViewServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body. path: below the token, or from the root if it begins with a slash."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    target = path if path.startswith(("/", "http")) else f"/{server.token}/{path}"
    connection.putrequest(method, target, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    result = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return result


def raw(server: ViewServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_the_page_and_its_data_are_served_with_strict_headers(server: ViewServer) -> None:
    for name in FILES:
        status, headers, body = ask(server, name)
        assert status == 200 and body, name
        assert int(headers["Content-Length"]) == len(body)
        for header, value in HEADERS.items():
            assert headers[header] == value
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert "Python" not in headers["Server"]
        status, head, body = ask(server, name, "HEAD")
        assert (status, body, head["Content-Length"]) == (200, b"", headers["Content-Length"])
    assert ask(server, "avatar.pack?v=7")[2] == b"packed"
    assert ask(server, "photo.png")[0] == 404  # the exhibit has none


def test_the_page_has_no_inline_script_or_style(server: ViewServer) -> None:
    """Its policy would block them."""
    page = ask(server, "")[2].decode()
    assert page.count("<script") == 1 and '<script src="viewer.js" defer></script>' in page
    assert "<style" not in page and " style=" not in page and " onclick" not in page


def test_only_those_who_know_the_token_get_anything(server: ViewServer) -> None:
    token = server.token
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    for path in ("/", "/index.html", f"/{token}", f"/{wrong}/", f"/{wrong}/state.json", "/state.json", "//"):
        status, headers, body = ask(server, path)
        assert status == 404 and headers["X-Content-Type-Options"] == "nosniff", path
        assert token.encode() not in body
    assert len(token) >= 32
    with ViewServer(Vase()) as other:
        assert other.token != token


@pytest.mark.parametrize(
    "path",
    [
        "../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "..\\..\\windows\\win.ini",
        "./viewer.js", "viewer.js/", "viewer.js/../style.css", "viewer.js%00.png", "/etc/passwd", "VIEWER.JS",
        "index.html", "__init__.py", "avatar.safetensors", "baked.safetensors", "metrics.jsonl", "report.json",
    ],
)  # fmt: skip
def test_nothing_but_the_table_is_served(server: ViewServer, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_symbolic_links_lead_nowhere(server: ViewServer, tmp_path: Path, monkeypatch) -> None:
    """No request opens a file: links in the working folder, or in a run's, are not followed."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    monkeypatch.chdir(tmp_path)
    for path in ("link", "secret", f"/{tmp_path}/link", "/link"):
        assert ask(server, path)[0] == 404


@pytest.mark.parametrize(
    "host", ["example.com", "example.com:{port}", "127.0.0.1", "127.0.0.1:1", "localhost", "10.0.0.1:{port}",
             "127.0.0.1.example.com:{port}", "localhost.:{port}", "user@127.0.0.1:{port}", "127.0.0.1:{port}/x",
             "[::1", "localhost:{port}x", "0.0.0.0:{port}", ""],
)  # fmt: skip
def test_other_hosts_are_refused(server: ViewServer, host: str) -> None:
    """A page elsewhere can make its own name point to 127.0.0.1, but then the browser sends that name."""
    status, _, body = ask(server, "state.json", Host=host.format(port=server.port))
    assert status == 403 and b"version" not in body


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "LOCALHOST:{port}"])
def test_names_of_this_machine_are_answered(server: ViewServer, host: str) -> None:
    assert ask(server, "state.json", Host=host.format(port=server.port))[0] == 200


def test_no_host_or_two_are_refused(server: ViewServer) -> None:
    path, host = f"/{server.token}/state.json", f"Host: 127.0.0.1:{server.port}\r\n"
    for hosts in ("", host + host, host + "Host: example.com\r\n"):
        assert raw(server, f"GET {path} HTTP/1.1\r\n{hosts}\r\n".encode()).split()[1] == b"403"
    assert raw(server, f"GET {path} HTTP/1.1\r\n{host}\r\n".encode()).split()[1] == b"200"


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "FROB", "get"]
)
def test_other_methods_are_refused(server: ViewServer, method: str) -> None:
    status, headers, body = ask(server, "state.json", method)
    assert status == 405 and headers["Allow"] == "GET, HEAD" and b"version" not in body


def test_malformed_requests_get_an_error_and_the_server_goes_on(server: ViewServer, capfd) -> None:
    head = f"Host: 127.0.0.1:{server.port}\r\n"
    for request in (
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n",
        f"GET http://[/ HTTP/1.1\r\n{head}\r\n".encode(),
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ):
        answer = raw(server, request)
        status = answer[8:12] if answer.startswith(b"HTTP/1") else b" 400"  # HTTP/0.9 has no status
        assert status in (b" 400", b" 403", b" 404", b" 414", b" 431", b" 505"), (request[:40], answer[:80])
    assert ask(server, "state.json")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_clients_that_go_away_leave_no_trace(server: ViewServer, vase: Vase, capfd) -> None:
    vase.content = bytes(50_000_000)
    path = f"/{server.token}/avatar.pack"
    for _ in range(3):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        client.recv(1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, at once
        client.close()
    assert len(ask(server, "avatar.pack")[2]) == 50_000_000
    assert capfd.readouterr().err == ""


def test_an_error_of_the_exhibit_is_one_line(server: ViewServer, vase: Vase, capfd) -> None:
    vase.broken = True
    assert ask(server, "state.json")[0] == 500
    assert capfd.readouterr().err == "viewer: RuntimeError: the vase fell\n"
    assert ask(server, "avatar.pack")[0] == 200


def test_only_this_machine_reaches_it_unless_told_otherwise(server: ViewServer) -> None:
    assert server.url == f"http://127.0.0.1:{server.port}/{server.token}/"
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("::1")
    assert not is_loopback("0.0.0.0") and not is_loopback("192.168.0.7") and not is_loopback("example.com")
    with ViewServer(Vase(), "0.0.0.0") as open_server:
        port = open_server.port
        assert ask(open_server, "state.json", Host=f"192.168.0.7:{port}")[0] == 200  # an address, no name
        assert ask(open_server, "state.json", Host=f"example.com:{port}")[0] == 403


def test_addresses_that_cannot_be_had_are_errors(server: ViewServer) -> None:
    with pytest.raises(UserError, match=f"port {server.port}"):
        ViewServer(Vase(), port=server.port)
    with pytest.raises(UserError, match=r"203\.0\.113\.1"):
        ViewServer(Vase(), "203.0.113.1")
