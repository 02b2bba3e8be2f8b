"""The command ``headrace``: one module a command, loaded when it is called.

Exit codes (CONTRACTS.md section 5): 0 done, 1 finished with failed pull requests, 2 wrong usage or input, 3 the
environment is not ready, 130 interrupted and resumable.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click
from loguru import logger

from events.errors import HeadraceError

__all__ = ["main"]

COMMANDS = {
    "ingest": "Makes a pull-request timeline from a package index or a git clone.",
    "resolve": "Fills requirements and Python version as of each pull request's date.",
    "sweep": "Builds and verifies an environment for every pull request of a timeline.",
    "resume": "Goes on with a sweep that was interrupted.",
    "retry": "Opens a sweep's failed pull requests again and goes on with it.",
    "revoke": "Takes a context out of use, with all that descends from it.",
    "verify": "Judges one context on one pull request, as a sweep would.",
    "status": "Shows how a sweep stands.",
    "audit": "Shows attempts one by one: why, how each ended, what its session used.",
    "events": "Prints the event log.",
    "replay": "Shows the state at any moment of the log, and checks that nothing was changed.",
    "simulate": "Sweeps a made-up world in virtual time.",
    "store": "Looks after stores: migrates, copies, rebuilds, imports and prunes them.",
    "evict": "Makes room on the engine's disk by removing Headrace's own images, oldest use first.",
    "doctor": "Checks what this machine needs, and says how to mend it.",
}


class _Commands(click.Group):
    """Finds a command's module by its name."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"scripts.{name}").command
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace")
@click.option("-v", "--verbose", is_flag=True, help="Log debug messages to standard error.")
def cli(verbose: bool) -> None:
    """Builds and verifies a Docker environment for every pull request of many repositories.

    A sweep's event log makes it resumable at any moment: nothing that is finished is paid for twice.
    """
    logger.remove()
    logger.add(sys.stderr, level="DEBUG" if verbose else "WARNING", diagnose=False, backtrace=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; errors of ours become one line on standard error."""
    try:
        result = cli.main(args=arguments, prog_name="headrace", standalone_mode=False)
    except HeadraceError as exc:
        click.echo(f"headrace: error: {exc.message}", err=True)
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("headrace: interrupted", err=True)
        return 130
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
