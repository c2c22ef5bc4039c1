"""The commands that open PostgreSQL to others: dsn, psql. Owns their words, not how PostgreSQL is reached."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.shared.output import written

if TYPE_CHECKING:
    from creditfold.common.settings import Settings
    from creditfold.stack.postgres_access import Access

OwnerOption = Annotated[
    bool,
    typer.Option(
        "--owner", help="As the ledger's owner, who may do everything, not as a reader: of the embedded server only."
    ),
]


def _access(settings: "Settings", *, owner: bool, must_run: bool) -> "Access":
    """How to reach PostgreSQL. Raises AccessError where no stack is, and with must_run where it is stopped."""
    from creditfold.stack.embedded import advice, has_stack
    from creditfold.stack.postgres import EmbeddedPostgres
    from creditfold.stack.postgres_access import AccessError, access

    why_not = advice(settings, "PostgreSQL")
    # The string of a server that is stopped will be right when it runs; one of a folder without a stack leads nowhere.
    if why_not is not None and (must_run or not has_stack(settings.data_dir)):
        raise AccessError(*why_not)
    port = EmbeddedPostgres(settings).tcp_port if settings.postgres_dsn is None else None
    return access(settings, as_owner=owner, tcp_port=port)


def dsn(
    jdbc: Annotated[bool, typer.Option("--jdbc", help="For JDBC; needs a port, not a socket.")] = False,
    password: Annotated[bool, typer.Option("--password", help="With the password in it, if there is one.")] = False,
    owner: OwnerOption = False,
) -> None:
    """Print the connection string of the ledger's PostgreSQL, for other clients.

    Of the embedded server it is a reader's, who sees the views of the schema `ledger` and nothing else. It leads to the
    port that CREDITFOLD_POSTGRES_TCP_PORT opens, else to the Unix socket. Without --password it names the file that has
    the password, which libpq reads by itself. Of a server of yours it is what CREDITFOLD_POSTGRES_DSN says.

    \b
    Examples:
      creditfold dsn
      creditfold dsn --jdbc --password
      psql "$(creditfold dsn)"
    """
    from creditfold.common.settings import load_settings
    from creditfold.stack.postgres_access import jdbc_url, url

    found = _access(load_settings(), owner=owner, must_run=False)
    text, left_out = jdbc_url(found, with_password=password) if jdbc else (url(found, with_password=password), [])
    with written():
        # As it is: a terminal's escapes can't be in it, and what is made of it must be what it says.
        print(text)
    if left_out:
        print(f"warning: JDBC has its own words for {', '.join(left_out)}, which aren't in it.", file=sys.stderr)


def psql(context: typer.Context, owner: OwnerOption = False) -> None:
    """Run psql on the ledger's PostgreSQL, with any arguments of psql's.

    With the embedded server as a reader, who sees the views of the schema `ledger` and can't change anything. Write --
    before the arguments where one is -h or --help. The password, if there is one, is not among its arguments.

    \b
    Examples:
      creditfold psql
      creditfold psql -c "SELECT * FROM ledger.balances_now LIMIT 10"
      creditfold psql -c "\\d+ ledger.lots"
      creditfold psql --owner -f maintenance.sql
    """
    from creditfold.common.settings import load_settings
    from creditfold.stack.postgres_access import psql_call
    from creditfold.stack.postgres_server import find_psql

    found = _access(load_settings(), owner=owner, must_run=True)
    command, environment = psql_call(find_psql(), found, context.args)
    with written():
        sys.stdout.flush()
    # In place of this process: Ctrl-C, the terminal and the exit code are psql's.
    os.execve(command[0], command, environment)  # noqa: S606 - No shell is wanted.
