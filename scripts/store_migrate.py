"""``headrace store migrate``: brings the database of a Supabase project to the schema that this program works with."""

from __future__ import annotations

import click

from events.errors import InputError

__all__ = ["migrate"]

DATABASE_VARIABLE = "SUPABASE_DB_URL"


@click.command("migrate")
@click.option(
    "--database-url",
    envvar=DATABASE_VARIABLE,
    metavar="URL",
    help=f"PostgreSQL of the project (postgresql://postgres:…), of which the tables will be; or ${DATABASE_VARIABLE}.",
)
@click.option("--print", "as_text", is_flag=True, help="Print all migrations as one file, for the SQL editor.")
def migrate(*, database_url: str | None, as_text: bool) -> None:
    """Applies the migrations that a Supabase project lacks.

    Each is one transaction and harmless when it is applied again; what a project has is recorded in it. There are three
    ways: --database-url; the Supabase CLI (`supabase --workdir store db push`, in a clone of Headrace); or --print, for
    the SQL editor of the dashboard. The database's password is neither shown nor stored.
    """
    from store.supabase.migrating import SCHEMA, apply, as_one_file

    if as_text:
        click.echo(as_one_file(), nl=False)
        return
    if not database_url:
        raise InputError("name the database with --database-url postgresql://postgres:…, or ask for --print")
    done = apply(database_url)
    for one in done:
        click.echo(f"applied {one.path.name}")
    click.echo(f"the database has schema {SCHEMA}" + ("" if done else "; nothing was to be applied"))
