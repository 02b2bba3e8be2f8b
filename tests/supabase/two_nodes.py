"""A Ray cluster of two nodes on this machine: ``python -m tests.supabase.two_nodes`` prints its address.

It ends when its standard input does, with the process that started it. Nodes listen on 127.0.0.1 only; ``ray start``
refuses to join such a cluster, Ray's own test cluster does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.actors.test_cluster import LOOPBACK

__all__ = ["LOOPBACK", "two_nodes"]

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two nodes with two ``docker`` each, while the block runs."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.supabase.two_nodes"],
        cwd=ROOT,
        env={**os.environ, **LOOPBACK},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("address "):
                yield line.split()[1]
                break
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=90)


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "resources": {"docker": 2}, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=2, resources={"docker": 2})
    print("address", cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
