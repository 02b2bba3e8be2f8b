"""The ``verify`` command of an agent's workspace: asks Headrace over the socket beside it, and prints the answer.

A program of its own, copied into the workspace: standard library only. It decides nothing and holds no secret; an agent
that edits it deceives only itself.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys

SOCKET = ".verify.sock"
USAGE = """\
Asks Headrace to build the workspace's three scripts in a fresh container and to run the repository's own tests there.
Prints the verdict with the reason and the end of the log.
"""
CODES = """\
exit codes: 0 verified; 1 refused, the text says why; 2 wrong use, or the scripts cannot be read; 3 Headrace's own
environment failed, try again; 4 no verifications left; 75 still running, call it again to go on waiting
"""


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="./verify", description=USAGE, epilog=CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wait", type=float, default=90.0, metavar="SECONDS", help="how long to wait [default: 90]")
    parser.add_argument("--log", metavar="NAME", help="print a log of the last verification, such as build or test")
    given = parser.parse_args()
    request = {"log": given.log} if given.log else {"wait_s": given.wait}
    os.chdir(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - a path of a socket must be short
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(SOCKET)
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = connection.makefile("rb").read()
        except OSError as exc:
            print(f"verify: Headrace does not answer ({exc.strerror}); the session may be over", file=sys.stderr)
            return 3
    head, _, text = answer.partition(b"\n")
    try:
        code = int(json.loads(head)["exit"])
    except (ValueError, KeyError, TypeError):
        print("verify: Headrace closed the connection without an answer; try again", file=sys.stderr)
        return 3
    sys.stdout.write(text.decode("utf-8", "replace"))
    return code


if __name__ == "__main__":
    sys.exit(main())
