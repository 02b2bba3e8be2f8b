"""A network for builds whose only way out leads to the configured package indexes and mirrors.

With ``build.network = "index"`` steps run in an internal network of the engine: no route, no names. On its gateway, an
address of this host, a forwarding proxy listens while a build runs and is handed to it as its HTTP proxy, which pip,
uv, apt and git honour. The proxy connects to allowed hosts only and tells everybody else so; TLS goes through unread.

What it does not prevent: a content network that serves an allowed host and others alike can be asked for those others
inside TLS; and services that listen on all addresses of this host can be reached, as from the engine's usual bridge.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from socketserver import StreamRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

import msgspec
import requests
from docker.errors import APIError, NotFound

from actors.images.diagnose import is_unresolved
from actors.images.engine import Engine
from actors.images.rootfs import apt_mirror
from actors.settings import BuildSettings
from events.errors import InfraError, SettingError

__all__ = ["INDEX_NETWORK", "Gate", "allowed_hosts", "build_network", "is_outside"]

INDEX_NETWORK = "index"
"""Value of ``build.network``."""
NAME = "headrace-index"
LABEL = "headrace.network"
PYPI = ("pypi.org", "files.pythonhosted.org")
DEBIAN = ("deb.debian.org", "security.debian.org")
WEB_PORTS = (80, 443)
NOT_ALLOWED = "is no index or mirror of this build"
CONNECT_S = 30.0
IDLE_S = 300.0
MAX_LINE = 65_536
MAX_HEADERS = 200
CHUNK = 65_536


def allowed_hosts(settings: BuildSettings) -> frozenset[tuple[str, int]]:
    """Hosts and ports that builds may reach: of the indexes, their files, the Debian mirror, ``build.index_hosts``."""
    urls = [settings.index_url or "https://pypi.org/simple", *settings.extra_index_urls]
    with suppress(SettingError):
        urls.append(settings.debian_mirror or apt_mirror())
    urls += [f"//{host}" for host in (*DEBIAN, *settings.index_hosts)]
    found: set[tuple[str, int]] = set()
    for url in urls:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        found |= {(host, port) for port in ((parts.port,) if parts.port else WEB_PORTS)}
        if host in PYPI:
            found |= {(other, port) for other in PYPI for port in WEB_PORTS}
    return frozenset((host, port) for host, port in found if host)


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """A build's way out: the engine's ``network``, ``arguments`` for the build, and what happened so far.

    ``refused``: ``host:port`` that were asked for and are not allowed.
    """

    network: str
    arguments: dict[str, str] = {}
    refused: list[str] = []

    @property
    def explanation(self) -> str:
        """What to add to the message of a build that failed; empty unless something was refused."""
        if not self.refused:
            return ""
        names = ", ".join(dict.fromkeys(self.refused))
        return f"; it asked for {names}, which {NOT_ALLOWED} (settings build.network, build.index_hosts)"


def is_outside(message: str, *, network: str) -> bool:
    """Whether an error of a build in this network says that it went for what the network does not have."""
    return network == INDEX_NETWORK and (NOT_ALLOWED in message or is_unresolved(message))


@contextmanager
def build_network(engine: Engine, settings: BuildSettings) -> Iterator[Gate]:
    """The network of one build; the proxy ends with the context, the engine's network stays for the next.

    Raises:
        InfraError: the engine is away, or refuses the network.
        SettingError: the engine is on another machine, or further proxies are configured.
    """
    if settings.network != INDEX_NETWORK:
        yield Gate(network=settings.network)
        return
    if engine.data_folder is None or settings.http_proxy or settings.https_proxy:
        raise SettingError(
            name="build.network",
            value=INDEX_NETWORK,
            expected="another network when the engine is on another machine or build.http_proxy is set",
            source="settings",
        )
    gateway = _gateway(engine)
    refused: list[str] = []
    try:
        server = _Proxy(gateway, allowed=allowed_hosts(settings), refused=refused)
    except OSError as exc:
        raise InfraError(f"cannot listen on {gateway}, the gateway of the network {NAME}: {exc.strerror}") from exc
    with server:
        thread = threading.Thread(target=server.serve_forever, name="headrace-index-proxy", daemon=True)
        thread.start()
        try:
            url = f"http://{gateway}:{server.server_address[1]}"
            names = {"http_proxy": url, "https_proxy": url, "no_proxy": "localhost,127.0.0.1"}
            arguments = names | {name.upper(): value for name, value in names.items()}
            yield Gate(network=NAME, arguments=arguments, refused=refused)
        finally:
            server.shutdown()
            thread.join()


def _gateway(engine: Engine) -> str:
    with engine.translated(f"make the network {NAME}"):
        try:
            found = engine.api.inspect_network(NAME)
        except NotFound:
            try:
                engine.api.create_network(NAME, driver="bridge", internal=True, labels={LABEL: INDEX_NETWORK})
            except APIError as exc:
                if exc.status_code != requests.codes.conflict:
                    raise
            found = engine.api.inspect_network(NAME)
    if not found["Internal"] or (found.get("Labels") or {}).get(LABEL) != INDEX_NETWORK:
        raise InfraError(f"the engine's network {NAME} was not made by Headrace; remove it")
    return str(ipaddress.ip_address(found["IPAM"]["Config"][0]["Gateway"].partition("/")[0]))


class _Proxy(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, *, allowed: frozenset[tuple[str, int]], refused: list[str]) -> None:
        self.allowed, self.refused = allowed, refused
        super().__init__((address, 0), _Connection)


class _Connection(StreamRequestHandler):
    """One request of a client: a tunnel, or one plain request. Errors of the connection end it."""

    server: _Proxy
    timeout = IDLE_S
    rbufsize = 0  # a head is read and no more: the rest is copied from the socket

    def handle(self) -> None:
        with suppress(OSError, ValueError):
            method, target, version = self.rfile.readline(MAX_LINE).decode("latin-1").split()
            headers = self._headers()
            tunnel = method == "CONNECT"
            parts = urlsplit(f"//{target}" if tunnel else target)
            host, port = (parts.hostname or "").lower(), parts.port or (443 if tunnel else 80)
            upstream = self._connected(host, port)
            if upstream is None:
                return
            with upstream:
                if tunnel:
                    self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    path = parts._replace(scheme="", netloc="").geturl() or "/"
                    kept = [line for line in headers if not line.lower().startswith((b"proxy-", b"connection:"))]
                    head = f"{method} {path} {version}\r\n".encode("latin-1")
                    upstream.sendall(head + b"".join(kept) + b"Connection: close\r\n\r\n")
                self._pump(upstream)

    def _headers(self) -> list[bytes]:
        lines = []
        while (line := self.rfile.readline(MAX_LINE)) not in (b"\r\n", b"\n", b""):
            lines.append(line)
            if len(lines) > MAX_HEADERS:
                raise ValueError("too many headers")
        return lines

    def _connected(self, host: str, port: int) -> socket.socket | None:
        name = f"{host}:{port}"
        if (host, port) not in self.server.allowed:
            self.server.refused.append(name)
            self._answer(HTTPStatus.FORBIDDEN, f"{name} {NOT_ALLOWED}; see build.index_hosts")
            return None
        try:
            return socket.create_connection((host, port), timeout=CONNECT_S)
        except OSError as exc:
            self._answer(HTTPStatus.BAD_GATEWAY, f"{name} does not answer: {exc}")
            return None

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = f"headrace: {text}\n".encode()
        head = f"HTTP/1.1 {status.value} headrace: {text}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self.wfile.write(head.encode("latin-1", "replace") + body)

    def _pump(self, upstream: socket.socket) -> None:
        """Copies both ways until one side ends."""
        client = self.connection
        upstream.settimeout(IDLE_S)
        other = {client: upstream, upstream: client}
        while True:
            readable, _, _ = select.select([client, upstream], [], [], IDLE_S)
            if not readable:
                return
            for side in readable:
                data = side.recv(CHUNK)
                if not data:
                    return
                other[side].sendall(data)
