"""``python -m tests.supabase COMMAND…``: runs a command with a project of its own, which ends with it.

The project is a scratch PostgreSQL behind the tests' gateway; the command finds it in ``SUPABASE_URL``,
``SUPABASE_KEY`` and ``SUPABASE_DB_URL``. For benchmarks and for looking at the store by hand.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.supabase.project import Projects


def main() -> None:
    """Runs the command line's command; its exit code is ours."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    with Projects() as projects:
        project = projects.new()
        environment = {**os.environ, **project.environment, "SUPABASE_DB_URL": project.database_url}
        code = subprocess.run(sys.argv[1:], env=environment, check=False).returncode
    sys.exit(code)


if __name__ == "__main__":
    main()
