"""The roles that own and read the ledger, and their rights."""

from psycopg import Connection, sql
from psycopg.errors import DuplicateObject, InsufficientPrivilege, UniqueViolation
from psycopg.rows import TupleRow

from creditfold.common.errors import CreditfoldError

READER_ROLE = "creditfold_reader"


def become_owner(connection: Connection[TupleRow]) -> None:
    """Make what follows the property of the ledger's owner, whose views and workers must be able to use it."""
    row = connection.execute(
        """SELECT pg_get_userbyid(nspowner), pg_get_userbyid(nspowner) <> current_user, pg_has_role(nspowner, 'MEMBER')
           FROM pg_namespace WHERE nspname = 'ledger'"""
    ).fetchone()
    owner, is_other, may = row or ("", False, True)
    if is_other and not may:
        raise CreditfoldError(
            f"The ledger belongs to the PostgreSQL user {owner}, and this one can't act for it.",
            f"Connect as {owner}, or have an administrator run: GRANT {owner} TO CURRENT_USER;",
        )
    if is_other:
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(owner)))


def grant_reading(connection: Connection[TupleRow]) -> None:
    """Let the readers' role read everything in the schema `ledger`."""
    reader = sql.Identifier(READER_ROLE)
    connection.execute(sql.SQL("GRANT USAGE ON SCHEMA ledger TO {}").format(reader))
    connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO {}").format(reader))


def make_reader_role(connection: Connection[TupleRow]) -> None:
    """Make the readers' role where the server has none. Raises CreditfoldError if this user may not."""
    # Roles belong to the whole server: another database of it may have made this one.
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (READER_ROLE,)).fetchone() is None:
        try:
            with connection.transaction():
                connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(READER_ROLE)))
        except (DuplicateObject, UniqueViolation):
            pass
        except InsufficientPrivilege:
            raise CreditfoldError(
                f"This PostgreSQL user may not create the role {READER_ROLE}.",
                f"Have an administrator run: CREATE ROLE {READER_ROLE} NOLOGIN;",
            ) from None
