"""The only way from a sandbox to the network: an HTTP proxy on this side, which leads to the Internet and nowhere else.

A sandbox has a network of its own, with nothing in it but loopback. Its programs find a proxy there, in the variables
that HTTP clients heed; :mod:`actors.generation.doorway` carries their connections here. The gate connects to public
addresses, looked up here and connected to as they were looked up, so that no name leads back to this machine (Ray, an
engine on TCP, a database, a cloud's metadata service) or its networks. What an account itself names as its base URL is
let through, wherever it is. Where this host uses a proxy itself, the gate goes through that one.
"""

from __future__ import annotations

import base64
import ipaddress
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from actors.generation.doorway import join

__all__ = ["Destination", "Gate", "destinations_of", "is_own"]

PROXY_PORT = 3128
"""In the sandbox; nothing else is there that could have it."""
MAX_CONNECTIONS = 128
MAX_HEAD_BYTES = 64 * 1024
HEAD_S = 30.0
CONNECT_S = 30.0
POLL_S = 0.2
DEFAULT_PORTS = {"http": 80, "https": 443}
LOOPBACK = ("localhost", "127.0.0.1", "::1")

Lookup = Callable[[str, int], list[str]]


class Destination(msgspec.Struct, frozen=True):
    """A host, as it is named, and a port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine by name."""
        return self.host in LOOPBACK


class Refused(Exception):
    """The sandbox may not connect to this."""


def destinations_of(environment: Mapping[str, str]) -> frozenset[Destination]:
    """Where an account's own variables lead: the base URLs among them."""
    found = set()
    for name, value in environment.items():
        if name.endswith("_BASE_URL"):
            with suppress(ValueError):
                found.add(_destination(urlsplit(value)))
    return frozenset(found)


class Gate:
    """One session's gate, from ``__enter__`` to ``__exit__``, which ends all its connections."""

    def __init__(
        self, path: Path, *, address: str, environment: Mapping[str, str], lookup: Lookup | None = None
    ) -> None:
        """``path``: of the socket; ``address``: what to bind, where ``path`` is too long; ``environment``: the
        account's, with the host's proxies; ``lookup``: addresses of a host, for tests."""
        self.path = path
        self._address = address
        self._allowed = destinations_of(environment)
        self._upstream = _proxy_of(environment)
        self._direct = tuple(one for one in _first(environment, "NO_PROXY", "no_proxy").split(",") if one.strip())
        self._lookup = lookup or _lookup
        self._closing = threading.Event()
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._serve, name="session-gate", daemon=True)

    def __enter__(self) -> Self:
        self._socket.bind(self._address)
        self._socket.listen(MAX_CONNECTIONS)
        self._socket.settimeout(POLL_S)
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        self._socket.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @property
    def ports(self) -> list[int]:
        """Ports of the sandbox's loopback: the proxy's, then those that an account's base URL names on loopback."""
        return [PROXY_PORT, *sorted(one.port for one in self._allowed if one.is_loopback and one.port != PROXY_PORT)]

    @staticmethod
    def variables() -> dict[str, str]:
        """What tells the sandbox's programs of the proxy."""
        proxy, none = f"http://127.0.0.1:{PROXY_PORT}", ",".join(LOOPBACK)
        named = {"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "NO_PROXY": none}
        return {**named, **{name.lower(): value for name, value in named.items()}}

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            if not self._free.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._carry, args=(connection,), name="session-gate", daemon=True).start()

    def _carry(self, inner: socket.socket) -> None:
        with self._lock:
            self._open.add(inner)
        try:
            inner.settimeout(HEAD_S)
            outer = self._through(inner)
            if outer is not None:
                inner.settimeout(None)
                outer.settimeout(None)
                with self._lock:
                    self._open.add(outer)
                join(inner, outer)
        except Refused as exc:
            _say(inner, "403 Forbidden", str(exc))
        except (OSError, ValueError) as exc:
            _say(inner, "502 Bad Gateway", str(exc))
        finally:
            with self._lock:
                self._open = {one for one in self._open if one.fileno() >= 0 and one is not inner}
            inner.close()
            self._free.release()

    def _through(self, inner: socket.socket) -> socket.socket | None:
        """The connection that a request asks for, with what was read of the request already sent on."""
        greeting, _, rest = _read_until(inner, b"\n").partition(b"\n")
        if greeting != b"proxy":
            port = int(greeting.removeprefix(b"port "))
            wanted = next((one for one in self._allowed if one.is_loopback and one.port == port), None)
            if wanted is None:
                raise Refused(f"port {port} of this machine is not open to a sandbox")
            outer = self._connect(wanted)
            outer.sendall(rest)
            return outer
        head, _, body = _read_until(inner, b"\r\n\r\n", begun=rest).partition(b"\r\n\r\n")
        line, _, fields = head.partition(b"\r\n")
        method, target, version = line.decode("latin-1").split(" ", 2)
        if method == "CONNECT":
            outer = self._connect(_destination(urlsplit(f"https://{target}")))
            inner.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            outer.sendall(body)
            return outer
        url = urlsplit(target)
        outer = self._connect(_destination(url))
        path = f"{url.path or '/'}{'?' + url.query if url.query else ''}"
        kept = [one for one in fields.split(b"\r\n") if not one.lower().startswith((b"proxy-", b"connection:"))]
        # One request a connection: the next one may be for another host.
        sent = [f"{method} {path} {version}".encode("latin-1"), *kept, b"Connection: close", b"", body]
        outer.sendall(b"\r\n".join(sent))
        return outer

    def _connect(self, wanted: Destination) -> socket.socket:
        trusted = wanted in self._allowed
        if self._upstream is not None and not wanted.is_loopback and not self._goes_direct(wanted.host):
            if not trusted and not _may_be_public(wanted.host):
                raise Refused(f"{wanted.host} is no public host")
            return self._by_proxy(wanted, self._upstream)
        addresses = self._lookup(wanted.host, wanted.port)
        if not trusted and not all(ipaddress.ip_address(one).is_global and not is_own(one) for one in addresses):
            raise Refused(f"{wanted.host} is no public host")
        error: OSError = OSError(f"{wanted.host} has no address")
        for address in addresses:
            try:
                return socket.create_connection((address, wanted.port), timeout=CONNECT_S)
            except OSError as exc:
                error = exc
        raise error

    def _goes_direct(self, host: str) -> bool:
        names = [one.strip().removeprefix("*").removeprefix(".") for one in self._direct]
        return any(name in ("", host) or host.endswith(f".{name}") for name in names)

    def _by_proxy(self, wanted: Destination, proxy: SplitResult) -> socket.socket:
        first = _destination(proxy)
        host = f"[{wanted.host}]" if ":" in wanted.host else wanted.host
        head = f"CONNECT {host}:{wanted.port} HTTP/1.1\r\nHost: {host}:{wanted.port}\r\n"
        if proxy.username:
            pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            head += f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"
        outer = socket.create_connection((first.host, first.port), timeout=CONNECT_S)
        outer.sendall(f"{head}\r\n".encode("latin-1"))
        # Byte by byte: what comes after the answer is the other end's.
        answer = _read_until(outer, b"\r\n\r\n", piece_bytes=1)
        if answer.split(b" ", 2)[1:2] == [b"200"]:
            return outer
        outer.close()
        raise OSError(f"this host's proxy refuses {wanted.host}: {answer.decode('latin-1').splitlines()[0][:80]}")


def _destination(url: SplitResult) -> Destination:
    if not url.hostname or url.scheme not in DEFAULT_PORTS:
        raise ValueError(f"{url.geturl()!r} names no host")
    return Destination(url.hostname, url.port or DEFAULT_PORTS[url.scheme])


def _proxy_of(environment: Mapping[str, str]) -> SplitResult | None:
    """The proxy that the account's environment, and so this host, uses; one that speaks HTTP itself."""
    url = urlsplit(_first(environment, "HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"))
    return url if url.scheme == "http" and url.hostname else None


def _first(environment: Mapping[str, str], *names: str) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def is_own(address: str) -> bool:
    """Whether an address is one of this machine's: what it would send there it would send from there. Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            return False
        return str(probe.getsockname()[0]) == address


def _may_be_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host.rstrip(".") and not host.rstrip(".").endswith((".local", ".internal", ".localhost"))


def _lookup(host: str, port: int) -> list[str]:
    return list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


def _read_until(
    connection: socket.socket, mark: bytes, *, begun: bytes = b"", piece_bytes: int = MAX_HEAD_BYTES
) -> bytes:
    data = begun
    while mark not in data:
        piece = connection.recv(piece_bytes)
        if not piece or len(data) > MAX_HEAD_BYTES:
            raise OSError("the request ended early, or is too long")
        data += piece
    return data


def _say(connection: socket.socket, status: str, reason: str) -> None:
    text = f"headrace: {reason}\n".encode("utf-8", "replace")
    with suppress(OSError):
        head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close"
        connection.sendall(f"{head}\r\n\r\n".encode("latin-1") + text)
