"""The GraphQL fields of operators: dead letters, the log, generations, rules, long operations, keys, the audit.

Each asks what its GET route asks. One of them reads Kafka: a record of the log, which no snapshot of PostgreSQL has.
"""

from datetime import datetime
from typing import Any

import strawberry
from strawberry.types import Info

from creditfold.api.dead_letters import LetterAccount, LetterPartition, LetterPosition, LetterReason
from creditfold.api.generations import GenerationAnswer, all_generations
from creditfold.api.graphql_reads import field
from creditfold.api.graphql_types import Long, list_of, type_of
from creditfold.api.keys import AuditAnswer, KeyAnswer, audit_page, keys_seen_by, line_behind
from creditfold.api.letters import DeadLettersAnswer, OneDeadLetterAnswer, letter_behind, one_letter, page_of
from creditfold.api.log_record import LogRecordAnswer, Offset, Partition
from creditfold.api.operations import (
    Number,
    OperationAnswer,
    OperationsAnswer,
    answer_of,
    operation_behind,
    operation_for,
    operations_page,
)
from creditfold.api.parameters import PAGE
from creditfold.api.rules import RulesAnswer, rules_in_force
from creditfold.common.position import Position
from creditfold.projections import queries

_LETTERS = "operate:dead-letters"


@strawberry.type
class OperatorFields:
    """What operators read."""

    @field(
        _LETTERS,
        type_of(DeadLettersAnswer),
        is_about_all=True,
        reason=LetterReason,
        account=LetterAccount,
        partition=LetterPartition,
    )
    def dead_letters(
        self,
        info: Info,
        *,
        reason: str | None = None,
        open: bool = False,
        account: str | None = None,
        partition: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = PAGE,
        cursor: str | None = None,
    ) -> Any:
        """The records of the log that can't be folded, newest first; `account` is their key, as it was written."""
        asked: dict[str, Any] = {"only_open": open, "account": account, "partition": partition}
        asked |= {"since": since, "until": until, "before": letter_behind(cursor)}
        found = queries.dead_letters(info.context.connection, limit + 1, reason, **asked)
        return page_of(found, limit, info.context.caller)

    @field(_LETTERS, type_of(OneDeadLetterAnswer), is_about_all=True, position=LetterPosition)
    def dead_letter(self, info: Info, position: str) -> Any:
        """The dead letter at a position, also with what was decided about the command that had its id first."""
        return one_letter(info.context.connection, Position.parse(position), info.context.caller)

    @field(_LETTERS, type_of(LogRecordAnswer), is_about_all=True, partition=Partition, offset=Offset)
    def log_record(self, info: Info, partition: int, offset: Long) -> Any:
        """One record of the log as it is there now, folded or not."""
        return info.context.record(Position(partition, offset), info.context.caller)

    @field("operate:generations", list_of(GenerationAnswer), is_about_all=True)
    def generations(self, info: Info) -> Any:
        """All generations, oldest first."""
        return all_generations(info.context.connection)

    @field("operate:rules", type_of(RulesAnswer), is_about_all=True)
    def rules(self, info: Info) -> Any:
        """Which versions of the rules there are, and which is in force in each partition since when."""
        return rules_in_force(info.context.connection, info.context.caller)

    @field("operate:*", type_of(OperationsAnswer), is_about_all=True)
    def operations(self, info: Info, limit: int = PAGE, cursor: str | None = None) -> Any:
        """Long operations, newest first: those of the kinds that the caller's scopes open."""
        return operations_page(info.context.connection, info.context.caller, operation_behind(cursor), limit)

    @field("operate:*", type_of(OperationAnswer), is_about_all=True, number=Number)
    def operation(self, info: Info, number: int) -> Any:
        """A long operation: how far it is, and what came of it."""
        return answer_of(operation_for(info.context.connection, info.context.caller, number))

    @field("keys", list_of(KeyAnswer))
    def keys(self, info: Info) -> Any:
        """All keys, revoked ones last; a caller that is limited to a prefix sees those within it."""
        return keys_seen_by(info.context.connection, info.context.caller)

    @field("audit", type_of(AuditAnswer), is_about_all=True)
    def audit(self, info: Info, limit: int = PAGE, cursor: str | None = None) -> Any:
        """What operators did, newest first."""
        return audit_page(info.context.connection, line_behind(cursor), limit)
