"""What `as_of` names: a time or a position, up to which decisions count. Knows no route."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from fastapi import Query
from psycopg import Connection

from creditfold.api.problems import ProblemError
from creditfold.common.instants import InstantError, milliseconds_of, moment_of
from creditfold.common.position import Position
from creditfold.log.partitioner import partition_of
from creditfold.projections import queries

AsOf = Annotated[str | None, Query(description="A time or a position, both inclusive: by what was decided until then.")]


class Then(NamedTuple):
    """What counts as the past: decisions up to an instant in milliseconds UTC, or up to an offset; both inclusive."""

    until_ms: int | None = None
    until: int | None = None


def then_of(connection: Connection[Any], account: str, as_of: str) -> tuple[int, Then]:
    """An account's partition, and what `as_of` names.

    Raises:
        ProblemError, InvalidPositionError: it is no past of the account's.
        NotYetFoldedError: the fold hasn't passed it.
    """
    offsets = queries.standing(connection).next_offsets
    partition = partition_of(account.encode(), len(offsets))
    if re.fullmatch(r"[0-9]+:[0-9]+", as_of, re.ASCII) is None:
        try:
            moment = moment_of(as_of)
        except InstantError as error:
            raise ProblemError(400, "invalid_as_of", f"as_of: {error}.", "Name a time or a position.") from None
        if moment > datetime.now(UTC):
            raise ProblemError(
                400, "invalid_as_of", f"{as_of} lies in the future.", "Name a time that has passed, or leave it out."
            )
        return partition, Then(until_ms=milliseconds_of(moment))
    position = Position.parse(as_of)
    if position.partition != partition:
        raise ProblemError(
            400,
            "invalid_as_of",
            f"{account} lives in partition {partition}; {position} says nothing about it.",
            f"Name a position of partition {partition}, or a time.",
        )
    if position.offset >= offsets[partition]:
        raise queries.NotYetFoldedError(
            f"The fold has not reached {position} yet.", "See GET /v1/progress, and ask again."
        )
    return partition, Then(until=position.offset)


def refuse_as_of(as_of: str | None, present: dict[str, str | None]) -> None:
    """Raise ProblemError where the past is asked for, and with it something that is known of the present only."""
    named = [name for name, value in present.items() if value]
    if as_of is not None and named:
        raise ProblemError(
            400, "invalid_as_of", f"{named[0]} is known of the present only.", f"Leave out as_of, or {named[0]}."
        )
