"""The inner end of a sandbox's way to the network: listens on loopback in there, and carries bytes to the gate outside.

A program of its own: standard library only. It becomes the command that it is given; a child process, which ends with
the sandbox, does the carrying. It decides nothing: :mod:`actors.generation.gate` does, outside.
Usage: ``doorway.py GATE PORTS COMMAND…``: GATE is the path of the gate's socket, PORTS a JSON list; the first port is
the proxy, each other one stands for the same port of the host.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading

PIECE_BYTES = 1 << 16


def carry(source: socket.socket, target: socket.socket) -> None:
    """Carries bytes until ``source`` ends, then tells ``target`` so."""
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def join(one: socket.socket, other: socket.socket) -> None:
    """Carries bytes both ways until both ends are done, and closes both."""
    back = threading.Thread(target=carry, args=(other, one), daemon=True)
    back.start()
    carry(one, other)
    back.join()
    one.close()
    other.close()


def serve(listener: socket.socket, *, gate: str, greeting: str) -> None:
    """Takes connections of the sandbox's programs to the gate."""
    while True:
        inner, _ = listener.accept()
        outer = socket.socket(socket.AF_UNIX)
        try:
            outer.connect(gate)
            outer.sendall(f"{greeting}\n".encode())
        except OSError:
            inner.close()
            outer.close()
            continue
        threading.Thread(target=join, args=(inner, outer), daemon=True).start()


def main(arguments: list[str]) -> None:
    """Entry point; returns only by an exception."""
    gate, ports, *command = arguments
    listeners = []
    for number, port in enumerate(json.loads(ports)):
        listener = socket.create_server(("127.0.0.1", port), backlog=64)
        listeners.append((listener, "proxy" if number == 0 else f"port {port}"))
    if os.fork():
        for listener, _ in listeners:
            listener.close()
        os.execvp(command[0], command)  # noqa: S606 - no shell is what is wanted
    os.setsid()
    # The CLI's output ends when its last writer does: this process is none.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    threads = [
        threading.Thread(target=serve, args=(listener,), kwargs={"gate": gate, "greeting": greeting})
        for listener, greeting in listeners
    ]
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main(sys.argv[1:])
