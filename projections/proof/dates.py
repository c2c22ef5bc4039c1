"""When each kind of proof was done last and found nothing wrong: for whoever watches that it is done at all.

No part of the ledger, and not of a generation.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege, UndefinedTable

#: What proves a ledger: a generation that equals what is folded anew, and an archive that has all of the log.
ProofKind = Literal["verify", "archive"]


def note_proof(connection: Connection[Any], kind: ProofKind) -> None:
    """Write that a proof was done now. Raises what PostgreSQL raises."""
    connection.execute(
        """INSERT INTO ledger.proofs (kind, passed_at) VALUES (%s, clock_timestamp())
           ON CONFLICT (kind) DO UPDATE SET passed_at = excluded.passed_at""",
        (kind,),
    )


def proofs(connection: Connection[Any]) -> Mapping[str, datetime]:
    """When each kind of proof was done last; nothing of those that never were, or for a user that may not look."""
    try:
        return dict(connection.execute("SELECT kind, passed_at FROM ledger.proofs").fetchall())
    except (InsufficientPrivilege, UndefinedTable):
        return {}
