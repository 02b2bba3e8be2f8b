"""Serves a script until it is interrupted: ``python -m tests.agents.models AGENT SCRIPT.json [PORT]``.

Prints the address, then one line of JSON per request (path and the turn that answered it).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tests.agents.models import SERVERS


def main(agent: str, script: str, port: str = "0") -> None:
    """Entry point."""
    with SERVERS[agent](json.loads(Path(script).read_text(encoding="utf-8")), port=int(port)) as server:
        print(server.url, flush=True)
        shown = 0
        while True:
            for request in server.requests[shown:]:
                print(json.dumps({"path": request.path, "turn": request.turn}), flush=True)
                shown += 1
            time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
