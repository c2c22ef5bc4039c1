"""What --as-of names: a time or a position, up to which decisions about an account count. Owns no query."""

import re
from typing import TYPE_CHECKING, Any

from creditfold.cli.shared.arguments import ArgumentError, milliseconds
from creditfold.common.position import Position

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow


def then_of(connection: "Connection[TupleRow]", account: str, as_of: str) -> tuple[int, dict[str, Any]]:
    """An account's partition, and what --as-of names as queries take it: `until_ms` or `until`.

    Raises:
        ArgumentError, InvalidPositionError: it is no past of the account's.
        NotYetFoldedError: the fold hasn't passed it.
    """
    from creditfold.log.partitioner import partition_of
    from creditfold.projections import queries

    offsets = queries.standing(connection).next_offsets
    partition = partition_of(account.encode(), len(offsets))
    if re.fullmatch(r"[0-9]+:[0-9]+", as_of, re.ASCII) is None:
        return partition, {"until_ms": milliseconds(as_of)}
    position = Position.parse(as_of)
    if position.partition != partition:
        raise ArgumentError(
            f"{account} lives in partition {partition}; {position} says nothing about it.",
            f"Name a position of partition {partition}, or a time.",
        )
    if position.offset >= offsets[partition]:
        raise queries.NotYetFoldedError(
            f"The fold has not reached {position} yet.", "See `creditfold status`, and ask again."
        )
    return partition, {"until": position.offset}
