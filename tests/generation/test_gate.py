"""The way from a sandbox to the network leads to the Internet and to the account's own servers, and nowhere else."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from actors.generation.gate import Gate, is_own
from tests.generation.scripted import Stand


class Web:
    """A server on loopback that says its name and notes what it was asked."""

    def __init__(self, name: str) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(f"{self.command} {self.path} {self.headers.get('Proxy-Authorization', '')}".strip())
                body = f"this is {name}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_CONNECT(self) -> None:
                self.do_GET()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> Web:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def gate(folder: Path, environment: dict[str, str], hosts: dict[str, list[str]]) -> Iterator[Path]:
    """A gate that looks names up in ``hosts``."""
    path = folder / "gate.sock"
    found = Gate(path, address=str(path), environment=environment, lookup=lambda host, port: hosts.get(host, [host]))
    with found:
        yield path


def ask(path: Path, greeting: str, request: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(f"{greeting}\n{request}\r\n\r\n".encode())
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read().decode()


@pytest.fixture
def web() -> Iterator[Web]:
    with Web("the model's server") as made:
        yield made


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "100.64.0.1"]
)
def test_no_private_address_is_reached_under_any_name(tmp_path: Path, web: Web, address: str) -> None:
    with gate(tmp_path, {}, {"localhost": [address], "innocent.example": [address]}) as path:
        for name in (f"[{address}]" if ":" in address else address, "localhost", "innocent.example"):
            assert ask(path, "proxy", f"CONNECT {name}:{web.port} HTTP/1.1").startswith("HTTP/1.1 403")
            assert ask(path, "proxy", f"GET http://{name}:{web.port}/ HTTP/1.1").startswith("HTTP/1.1 403")
    assert web.asked == []


def test_a_name_with_one_public_and_one_private_address_is_refused(tmp_path: Path, web: Web) -> None:
    with gate(tmp_path, {}, {"twofaced.example": ["8.8.8.8", "127.0.0.1"]}) as path:
        assert ask(path, "proxy", f"CONNECT twofaced.example:{web.port} HTTP/1.1").startswith("HTTP/1.1 403")


def test_a_public_address_of_this_machine_itself_is_refused(
    tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_own("127.0.0.1")
    assert not is_own("192.0.2.7")
    monkeypatch.setattr("actors.generation.gate.is_own", lambda address: address == "8.8.8.8")
    with gate(tmp_path, {}, {"me.example": ["8.8.8.8"]}) as path:
        assert ask(path, "proxy", f"CONNECT me.example:{web.port} HTTP/1.1").startswith("HTTP/1.1 403")


def test_what_an_account_names_as_its_base_url_is_reached_wherever_it_is(tmp_path: Path, web: Web) -> None:
    environment = {"OPENAI_BASE_URL": f"http://model.example:{web.port}/v1"}
    with gate(tmp_path, environment, {"model.example": ["127.0.0.1"]}) as path:
        plain = ask(path, "proxy", f"GET http://model.example:{web.port}/v1/models?a=b HTTP/1.1\r\nHost: x")
        tunnel = ask(path, "proxy", f"CONNECT model.example:{web.port} HTTP/1.1\r\n\r\nGET /inside HTTP/1.0")
        other = ask(path, "proxy", f"CONNECT model.example:{web.port + 1} HTTP/1.1")
    assert plain.endswith("this is the model's server")
    assert tunnel.startswith("HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.0 200 OK")
    assert other.startswith("HTTP/1.1 403")
    assert web.asked == ["GET /v1/models?a=b", "GET /inside"]


def test_of_this_machines_ports_only_those_of_base_urls_are_open(tmp_path: Path, web: Web) -> None:
    with Web("somebody else's") as other, gate(tmp_path, {"X_BASE_URL": f"http://127.0.0.1:{web.port}"}, {}) as path:
        assert ask(path, f"port {web.port}", "GET / HTTP/1.0").endswith("this is the model's server")
        assert ask(path, f"port {other.port}", "GET / HTTP/1.0").startswith("HTTP/1.1 403")
        assert other.asked == []


def test_a_host_that_uses_a_proxy_itself_is_gone_through_with_its_password(tmp_path: Path) -> None:
    with Web("the proxy") as proxy:
        environment = {"HTTPS_PROXY": f"http://user:word@127.0.0.1:{proxy.port}"}
        with gate(tmp_path, environment, {"localhost": ["127.0.0.1"]}) as path:
            ask(path, "proxy", "CONNECT pypi.org:443 HTTP/1.1")
            for name in ("127.0.0.1", "10.0.0.1", "localhost", "metadata.internal", "intranet"):
                assert ask(path, "proxy", f"CONNECT {name}:80 HTTP/1.1").startswith("HTTP/1.1 403")
    assert proxy.asked == ["CONNECT pypi.org:443 Basic dXNlcjp3b3Jk"]


def test_nonsense_is_answered_and_ends_nothing(tmp_path: Path, web: Web) -> None:
    with gate(tmp_path, {"X_BASE_URL": f"http://127.0.0.1:{web.port}"}, {}) as path:
        assert ask(path, "proxy", "nonsense").startswith("HTTP/1.1 502")
        assert ask(path, "proxy", "GET ftp://x/ HTTP/1.1").startswith("HTTP/1.1 502")
        with suppress(ConnectionError):  # it does not read to the end of what is too long
            assert ask(path, "proxy", "A" * 200_000).startswith("HTTP/1.1 502")
        assert ask(path, f"port {web.port}", "GET / HTTP/1.0").endswith("this is the model's server")


REACH = """
import os, socket, urllib.request
direct = socket.socket()
for port in PORTS:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        print("reached", port)
    except OSError as exc:
        print("direct", exc.strerror)
    with socket.create_connection(("127.0.0.1", 3128), timeout=5) as proxy:
        proxy.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\\r\\n\\r\\n" % port)
        print(proxy.makefile().readline().strip())
print(urllib.request.urlopen(os.environ["ANTHROPIC_BASE_URL"] + "/hello").read().decode())
names = socket.socket(socket.AF_UNIX)
try:
    names.connect("\\0abstract-of-the-host")
    print("reached the host's abstract socket")
except OSError as exc:
    print("abstract", exc.strerror)
"""


def test_from_a_sandbox_the_accounts_server_is_reached_and_nothing_else_of_this_machine(
    stand: Stand, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_URL", f"http://127.0.0.1:{web.port}")
    account = {
        "name": "claude",
        "agent": "claude",
        "env": {"ANTHROPIC_API_KEY": "TEST_AGENT_KEY", "ANTHROPIC_BASE_URL": "TEST_URL"},
    }
    with Web("a database") as other, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0abstract-of-the-host")
        abstract.listen()
        script = REACH.replace("PORTS", f"[{other.port}]")
        stand.run(f"python3 - <<'EOF'\n{script}\nEOF\n", settings=stand.settings(account=[account], sandbox="required"))
        assert other.asked == []
    said = stand.said()
    assert "direct Connection refused" in said
    assert "HTTP/1.1 403 Forbidden" in said
    assert "this is the model's server" in said
    assert "abstract Connection refused" in said
    assert "reached" not in said
    assert web.asked == ["GET /hello"]


def test_where_the_setting_says_so_the_hosts_network_is_there_and_that_is_told(stand: Stand, web: Web) -> None:
    script = f"python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:{web.port}/\").read())'"
    outcome = stand.run(script, settings=stand.settings(sandbox="required", network="host"))
    assert "the model's server" in stand.said()
    said = next(check.detail for check in outcome.checks if check.name == "sandbox")
    assert "this host's network is in reach" in said
