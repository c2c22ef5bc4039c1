"""What the HTTP door answers. Written from docs/openapi.json by docs/client_code.py (`make api`)."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from pydantic import Field

from creditfold.client.shapes import Answer

__all__ = [
    "AcceptedAnswer",
    "AccountAnswer",
    "AccountsAnswer",
    "ActivationAnswer",
    "Allocation",
    "AttemptAnswer",
    "AttemptsAnswer",
    "AuditAnswer",
    "AuditLineAnswer",
    "BalanceAnswer",
    "BytesAnswer",
    "DeadLetterAnswer",
    "DeadLettersAnswer",
    "DecisionAnswer",
    "DeliveriesAnswer",
    "DeliveryAnswer",
    "EndedAnswer",
    "EndedLineAnswer",
    "EndedSumAnswer",
    "EndedTotalsAnswer",
    "EndpointAnswer",
    "ExpiringAnswer",
    "ExpiringDayAnswer",
    "ExpiringLotAnswer",
    "ExpiringMonthAnswer",
    "FaultAnswer",
    "FoundAccountAnswer",
    "FoundBalanceAnswer",
    "FoundCommandAnswer",
    "GenerationAnswer",
    "GraphqlAnswer",
    "HeaderAnswer",
    "HistoryAnswer",
    "HoldAnswer",
    "HoldsAnswer",
    "JournalAnswer",
    "KeyAnswer",
    "LetterResultAnswer",
    "LetterResultsAnswer",
    "LiveAnswer",
    "LogRecordAnswer",
    "LotAnswer",
    "LotsAnswer",
    "MoveAnswer",
    "NewEndpointAnswer",
    "NewKeyAnswer",
    "OneDeadLetterAnswer",
    "OperationAnswer",
    "OperationsAnswer",
    "OutcomeAnswer",
    "PreviewAnswer",
    "Problem",
    "ProgressAnswer",
    "ReadyAnswer",
    "ResentAnswer",
    "RuleAnswer",
    "RulesAnswer",
    "ScheduleAnswer",
    "SchedulesAnswer",
    "SidesAnswer",
    "SpentAnswer",
    "SpentSumAnswer",
    "StatementAnswer",
    "StatementBalanceAnswer",
    "StatementLineAnswer",
    "TotalAnswer",
    "TraceAnswer",
    "TracedLotAnswer",
    "TransferAnswer",
    "TransfersAnswer",
    "TrialBalanceAnswer",
]


class AcceptedAnswer(Answer):
    """A command that is in the log and isn't decided yet."""

    account: str
    command_id: str
    position: str
    outcome: str = "pending"


class AccountAnswer(Answer):
    """An account; one that was never used has no balances, and is neither frozen nor closed.

    Attributes:
        frozen: spending, all, or nothing.
        holds: with expand=holds: the first 1,000.
        holds_next: where there are more: the cursor at which /holds goes on.
        lots: with expand=lots: the first 1,000.
        lots_next: where there are more: the cursor at which /lots goes on.
    """

    account: str
    balances: tuple[BalanceAnswer, ...]
    frozen: str | None
    is_closed: bool
    holds: tuple[HoldAnswer, ...] | None = None
    holds_next: str | None = None
    lots: tuple[LotAnswer, ...] | None = None
    lots_next: str | None = None


class AccountsAnswer(Answer):
    """A page of accounts, in the order of the bytes of their names.

    Attributes:
        next: the cursor of the next page; nothing where this is the last.
    """

    accounts: tuple[FoundAccountAnswer, ...]
    next: str | None


class ActivationAnswer(Answer):
    """A record of the log that brought a version of the rules into force in its partition.

    Attributes:
        source: who did it; with the scope read:personal only, as the reason.
    """

    activated_at: datetime
    position: str
    reason: str | None
    rules: int
    source: str | None


class Allocation(Answer):
    """Credits of a lot that a command took or gave.

    Attributes:
        lot: the command that made the lot.
        source: where they were: a place in the lot, or a system account.
        target: where they went.
    """

    amount: int
    lot: str
    lot_number: int
    source: str
    target: str


class AttemptAnswer(Answer):
    """One request, and how its answer began.

    Attributes:
        answer: its first KiB, what isn't UTF-8 replaced.
        status: none where there was no answer.
    """

    account: str | None
    answer: str
    at: datetime
    error: str
    latency_ms: int
    status: int | None
    try_number: int
    type: str
    webhook_id: str


class AttemptsAnswer(Answer):
    """A page of an endpoint's requests, newest first.

    Attributes:
        next: the cursor of the next page; None after the last.
    """

    attempts: tuple[AttemptAnswer, ...]
    next: str | None


class AuditAnswer(Answer):
    """A page of the audit, newest first.

    Attributes:
        next: the cursor of the next page; None after the last.
    """

    lines: tuple[AuditLineAnswer, ...]
    next: str | None


class AuditLineAnswer(Answer):
    """One action of somebody's.

    Attributes:
        address: from where.
    """

    action: str
    address: str
    after: dict[str, Any] | None
    at: datetime
    before: dict[str, Any] | None
    number: int
    reason: str
    request_id: str
    target: str
    who: str


class BalanceAnswer(Answer):
    """An account's credits of one asset, in its smallest unit."""

    asset: str
    available: int
    credit_limit: int
    debt: int
    held: int
    pending: int
    version: int
    available_for_use: int | None = None


class BytesAnswer(Answer):
    """Bytes that anybody may have written.

    Attributes:
        text: where they are UTF-8 of which every character can be seen.
    """

    base64: str
    size: int
    text: str | None


class DeadLetterAnswer(Answer):
    """A record of the log that can't be folded, and what was decided about it.

    Attributes:
        command: that it holds, valid or not. What it says in words is None without the scope read:personal.
        state: open, redriving, redriven or discarded.
        to: position of the record that was appended in its place.
        value: none too without the scope read:personal.
        why: it was decided so.
    """

    appended_at: datetime | None
    command: dict[str, Any] | None
    corrected: bool | None
    decided_at: datetime | None
    decided_by: str | None
    detail: str
    headers: tuple[HeaderAnswer, ...]
    key: BytesAnswer | None
    position: str
    reason: str
    state: str
    to: str | None
    value: BytesAnswer | None
    why: str | None


class DeadLettersAnswer(Answer):
    """A page of dead letters, newest first.

    Attributes:
        next: the cursor of the next page; None after the last.
    """

    dead_letters: tuple[DeadLetterAnswer, ...]
    next: str | None


class DecisionAnswer(Answer):
    """A line of the journal: what was decided, and what the account had afterwards.

    Attributes:
        available: after the decision.
        change: of the available credits, signed.
        position: of the record that was decided, `partition:offset`.
        step: index of the step for which a batch was rejected, from 0.
        version: the line's number within the account, from 1.
    """

    accepted: bool
    account: str
    allocations: tuple[Allocation, ...]
    amount: int
    asset: str
    available: int
    change: int
    command_id: str | None
    debt: int
    decided_at: datetime
    details: dict[str, Any] | None
    facts: tuple[dict[str, Any], ...]
    held: int
    kind_: str = Field(..., alias="kind")
    occurred_at: datetime | None
    pending: int
    position: str
    reason: str | None
    rejection: str | None
    rules: int
    source: str | None
    step: int | None
    version: int


class DeliveriesAnswer(Answer):
    """A page of what waits for an endpoint or was given up, oldest first.

    Attributes:
        next: the cursor of the next page; None after the last.
    """

    deliveries: tuple[DeliveryAnswer, ...]
    next: str | None


class DeliveryAnswer(Answer):
    """An event that waits for an endpoint, or was given up.

    Attributes:
        error: of the last try.
        next_at: when it is sent again.
        position: where the log has what it is about.
        state: pending, or parked.
    """

    account: str | None
    error: str
    made_at: datetime
    next_at: datetime | None
    position: str | None
    state: str
    tries: int
    type: str
    webhook_id: str


class EndedAnswer(Answer):
    """A page of what ended, the latest first.

    Attributes:
        next: the cursor of the next page; None after the last.
    """

    lines: tuple[EndedLineAnswer, ...]
    next: str | None


class EndedLineAnswer(Answer):
    """Credits of a lot that ended, or that a lapsed hold gave back to it.

    Attributes:
        at: when it ended.
        command_id: none where time did it.
        decided_at: when the fold settled it.
        hold: the hold that lapsed.
        kind_: of the command that ended it; settled: time did.
        lot: the command that made the lot.
        position: of the record with which it was settled, `partition:offset`.
        reason: of that command. With the scope read:personal only.
        source: of that command. With the scope read:personal only.
        version: the line's number within the account.
        what: expired, voided, forfeited, or lapsed.
    """

    account: str
    amount: int
    asset: str
    at: datetime
    command_id: str | None
    decided_at: datetime
    hold: str | None
    kind_: str = Field(..., alias="kind")
    lot: str
    lot_number: int
    position: str
    reason: str | None
    source: str | None
    version: int
    what: str


class EndedSumAnswer(Answer):
    """What ended.

    Attributes:
        lot_class: paid, promo, or debt: what was spent without having it.
        reason: of the commands, the first 100 characters. With read:personal only.
        source: of the commands; empty where time did it. With read:personal only.
        what: expired, voided, forfeited; or lapsed: what lapsed holds gave back.
    """

    amount: int
    asset: str
    lot_class: str | None
    reason: str | None
    source: str | None
    what: str


class EndedTotalsAnswer(Answer):
    """What ended in a time.

    Attributes:
        has_more: whether there are more rows than were asked for.
    """

    has_more: bool
    rows: tuple[EndedSumAnswer, ...]
    since: datetime | None
    until: datetime | None


class EndpointAnswer(Answer):
    """An endpoint, without its secret.

    Attributes:
        behind: offsets of the log that it hasn't been through.
        failing_since: when a request failed first since one didn't.
        parked: events that were given up.
        pending: events that wait for their next try, or behind one that does.
        public_keys: that verify `v1a`, the newest first.
        state: enabled, or disabled.
    """

    account_prefixes: tuple[str, ...]
    behind: int
    description: str
    disabled_at: datetime | None
    disabled_why: str
    failing_since: datetime | None
    id: str
    made_at: datetime
    owner: str
    parked: int
    pending: int
    public_keys: tuple[str, ...]
    state: str
    types: tuple[str, ...]
    url: str


class ExpiringAnswer(Answer):
    """What of an account ends after `at` and until `until`, that instant included."""

    account: str
    at: datetime
    days: tuple[ExpiringDayAnswer, ...]
    lots: tuple[ExpiringLotAnswer, ...]
    until: datetime


class ExpiringDayAnswer(Answer):
    """What ends on a day.

    Attributes:
        day: in UTC.
        held: what is held of them; what of it comes back after the end is lost too.
        lots: how many lots end.
        remaining: what they have left, and lose unless it is spent before.
    """

    asset: str
    day: date
    held: int
    lots: int
    remaining: int


class ExpiringLotAnswer(Answer):
    """A lot that ends."""

    asset: str
    command_id: str
    expires_at: datetime
    held: int
    lot_class: str
    number: int
    remaining: int
    scope: str | None


class ExpiringMonthAnswer(Answer):
    """What ends in a month.

    Attributes:
        held: what is held of them; what of it comes back after the end is lost too.
        lots: how many lots end.
        month: its first day, in UTC.
        remaining: what they have left, and lose unless it is spent before.
    """

    asset: str
    held: int
    lots: int
    month: date
    remaining: int


class FaultAnswer(Answer):
    """Something that doesn't balance."""

    account: str | None
    asset: str
    what: str


class FoundAccountAnswer(Answer):
    """An account that was found.

    Attributes:
        balances: as last settled: that of `asset`, else the first ten by the assets' names.
        commands: of a search by command or metadata: the last ten by which it was found.
        frozen: spending, all, or nothing.
    """

    account: str
    balances: tuple[FoundBalanceAnswer, ...]
    commands: tuple[FoundCommandAnswer, ...]
    frozen: str | None
    is_closed: bool


class FoundBalanceAnswer(Answer):
    """A balance as the account was last settled, in the asset's smallest unit."""

    asset: str
    available: int
    debt: int
    held: int
    pending: int


class FoundCommandAnswer(Answer):
    """A command by which an account was found."""

    command_id: str
    position: str


class GenerationAnswer(Answer):
    """A generation: a fold of the log, with tables of its own.

    Attributes:
        digest: the same where offsets and decisions are the same.
        indexes_balances: whether searches by balance, and by what ends, have an index.
        is_leftover: left by a comparison that was killed; nobody uses it.
        is_partial: for looking at only: it ends early, or other rules decided everything.
        searchable: keys of metadata that accounts can be searched by.
        state: building, ready, live or retired.
    """

    activated_at: datetime | None
    digest: str
    forced_rules: int | None
    indexes_balances: bool
    is_leftover: bool
    is_partial: bool
    layout: int
    made_at: datetime
    next_offsets: dict[str, int]
    note: str
    number: int
    purpose: str
    ready_at: datetime | None
    records: int
    retired_at: datetime | None
    searchable: tuple[str, ...]
    size_bytes: int
    state: str
    topic: str
    until: datetime | None
    until_offsets: dict[str, int] | None


class GraphqlAnswer(Answer):
    """An answer of GraphQL.

    Attributes:
        data: what was asked for; null where nothing was read.
        errors: what failed. `extensions` has what a problem has: code, status, remedy, request_id.
        extensions: `cost` of the query, and `most_cost`.
    """

    data: dict[str, Any] | None = None
    errors: tuple[dict[str, Any], ...] | None = None
    extensions: dict[str, Any] | None = None


class HeaderAnswer(Answer):
    """A header of a record.

    Attributes:
        name: what can't be seen is escaped.
        value: none too without the scope read:personal.
    """

    name: str
    value: BytesAnswer | None


class HistoryAnswer(Answer):
    """A page of an account's journal, the latest decision first.

    Attributes:
        next: the cursor of the next page; None after the last.
    """

    lines: tuple[DecisionAnswer, ...]
    next: str | None


class HoldAnswer(Answer):
    """Credits set aside.

    Attributes:
        state: open, lapsed or closed.
    """

    asset: str
    command_id: str
    deadline: datetime | None
    held: int
    state: str
    taken: int


class HoldsAnswer(Answer):
    """A page of an account's holds.

    Attributes:
        next: the cursor of the next page; None after the last.
    """

    holds: tuple[HoldAnswer, ...]
    next: str | None


class JournalAnswer(Answer):
    """A page of the journal: partition by partition, each in the log's order.

    Attributes:
        has_more: whether there are lines after this page already.
        next: the cursor of what comes after; good at any time, also for what isn't written yet.
    """

    has_more: bool
    lines: tuple[DecisionAnswer, ...]
    next: str


class KeyAnswer(Answer):
    """A key, without its text.

    Attributes:
        expires_at: of its newest text.
        used_at: up to half a minute late.
    """

    account_prefix: str
    assets: tuple[str, ...]
    burst: int | None
    expires_at: datetime | None
    id: str
    made_at: datetime
    most_amount: int | None
    name: str
    rate: float | None
    revoked_at: datetime | None
    scopes: tuple[str, ...]
    used_at: datetime | None


class LetterResultAnswer(Answer):
    """What became of a letter.

    Attributes:
        result: the outcome of what was appended: accepted, rejected, duplicate or dead_letter; not_folded_yet where it
            is in the log only; or discarded, refused, would_be_redriven, would_be_discarded.
        to: position of the record that was appended.
    """

    command: dict[str, Any] | None
    detail: str
    position: str
    reason: str
    remedy: str
    result: str
    to: str | None


class LetterResultsAnswer(Answer):
    """What became of the letters of a request, in the order in which they came.

    Attributes:
        has_more: whether the filter finds more; the same request goes on with them.
    """

    has_more: bool
    results: tuple[LetterResultAnswer, ...]


class LiveAnswer(Answer):
    """That the process serves requests."""

    live: bool


class LogRecordAnswer(Answer):
    """A record of the log, as anybody may have written it.

    Attributes:
        appended_at: by the log's clock.
        fault: why it can't be read.
        fields_: what it says. source, reason, metadata and note are None without the scope read:personal.
        key: the account, of a command.
        record: the name of what it is, such as Grant; None where it can't be read.
        schema_id: of the Avro schema that it says it has; GET /schemas/{id} shows that.
        value: none too without the scope read:personal.
    """

    appended_at: datetime | None
    fault: str | None
    fields_: dict[str, Any] | None = Field(..., alias="fields")
    headers: tuple[HeaderAnswer, ...]
    key: BytesAnswer | None
    position: str
    record: str | None
    schema_id: int | None
    value: BytesAnswer | None


class LotAnswer(Answer):
    """Credits that came in together, and where each part of them is.

    Attributes:
        state: pending, active, empty, expired or voided.
    """

    amount: int
    asset: str
    command_id: str
    effective_at: datetime | None
    expired: int
    expires_at: datetime | None
    forfeited: int
    held: int
    lot_class: str
    number: int
    priority: int
    reissued: int
    remaining: int
    scope: str | None
    spent: int
    state: str
    transferred: int
    voided: int


class LotsAnswer(Answer):
    """A page of an account's lots.

    Attributes:
        next: the cursor of the next page; None after the last.
    """

    lots: tuple[LotAnswer, ...]
    next: str | None


class MoveAnswer(Answer):
    """Credits that went from one place to another.

    Attributes:
        command_id: the command that moved them; None for what time did.
        lot_command: the command that made the lot; None for debt.
    """

    amount: int
    asset: str
    at: datetime
    command_id: str | None
    kind_: str = Field(..., alias="kind")
    lot_command: str | None
    lot_number: int | None
    position: str
    ref: str
    source: str
    target: str
    version: int


class NewEndpointAnswer(Answer):
    """An endpoint with its secret.

    Attributes:
        behind: offsets of the log that it hasn't been through.
        failing_since: when a request failed first since one didn't.
        parked: events that were given up.
        pending: events that wait for their next try, or behind one that does.
        public_keys: that verify `v1a`, the newest first.
        secret: that verifies `v1`; shown this once.
        state: enabled, or disabled.
    """

    account_prefixes: tuple[str, ...]
    behind: int
    description: str
    disabled_at: datetime | None
    disabled_why: str
    failing_since: datetime | None
    id: str
    made_at: datetime
    owner: str
    parked: int
    pending: int
    public_keys: tuple[str, ...]
    secret: str
    state: str
    types: tuple[str, ...]
    url: str


class NewKeyAnswer(Answer):
    """A key with its text.

    Attributes:
        expires_at: of its newest text.
        text: shown this once and stored nowhere.
        used_at: up to half a minute late.
    """

    account_prefix: str
    assets: tuple[str, ...]
    burst: int | None
    expires_at: datetime | None
    id: str
    made_at: datetime
    most_amount: int | None
    name: str
    rate: float | None
    revoked_at: datetime | None
    scopes: tuple[str, ...]
    text: str
    used_at: datetime | None


class OneDeadLetterAnswer(Answer):
    """A dead letter with what it is about.

    Attributes:
        command: that it holds, valid or not. What it says in words is None without the scope read:personal.
        first: of a command_id_reused: what was decided under the id first.
        mends: position of the dead letter that it was to mend.
        state: open, redriving, redriven or discarded.
        to: position of the record that was appended in its place.
        value: none too without the scope read:personal.
        why: it was decided so.
    """

    appended_at: datetime | None
    command: dict[str, Any] | None
    corrected: bool | None
    decided_at: datetime | None
    decided_by: str | None
    detail: str
    first: DecisionAnswer | None
    headers: tuple[HeaderAnswer, ...]
    key: BytesAnswer | None
    mends: str | None
    position: str
    reason: str
    state: str
    to: str | None
    value: BytesAnswer | None
    why: str | None


class OperationAnswer(Answer):
    """A long operation: who wants it, how far it is, and what came of it.

    Attributes:
        done: records behind the step.
        error: code, message and remedy of one that failed.
        generation: that it is about, or that it makes.
        operation: its number.
        remedy: how to go on after one that failed, was cancelled or was interrupted.
        reported_at: when it said last how far it is.
        state: starting, running, cancelling, done, failed, cancelled, or interrupted: its process ended before the
            operation did.
        step: what it does now.
        total: records of the step; 0 where there is nothing to count.
    """

    begun_at: datetime
    done: int
    ended_at: datetime | None
    error: dict[str, str] | None
    generation: int | None
    kind_: str = Field(..., alias="kind")
    operation: int
    parameters: dict[str, Any]
    remedy: str | None
    reported_at: datetime
    result: dict[str, Any] | None
    state: str
    step: str
    total: int
    who: str
    why: str


class OperationsAnswer(Answer):
    """A page of operations, newest first.

    Attributes:
        next: the cursor of the next page; None after the last.
    """

    next: str | None
    operations: tuple[OperationAnswer, ...]


class OutcomeAnswer(Answer):
    """What became of a command.

    Attributes:
        accepted: whether the command has taken effect, by this record or the first one.
        position: of this record in the log, `partition:offset`.
    """

    accepted: bool
    account: str
    command_id: str
    decision: DecisionAnswer | None
    outcome: str
    position: str
    reason: str | None
    steps: tuple[DecisionAnswer, ...]


class PreviewAnswer(Answer):
    """What a command would come to at the folded state.

    Attributes:
        at: where in the log it would be decided, `partition:offset`: behind all that is folded.
        balances: by asset, afterwards: all with the scope read:balance, else those that the command is about.
        outcome: accepted, rejected or duplicate.
    """

    account: str
    allocations: tuple[Allocation, ...]
    at: str
    balances: dict[str, dict[str, int]]
    command_id: str
    facts: tuple[dict[str, Any], ...]
    outcome: str
    reason: str | None


class Problem(Answer):
    """A problem document (RFC 9457).

    Attributes:
        code: the kind, for a program to act on.
        detail: what went wrong, in one sentence.
        maybe_written: whether a command of this request may be in the log all the same. Sent again under the same key,
            it counts once.
        remedy: what to do next.
        request_id: also in the header X-Request-Id, and in the server's log.
        status: the HTTP status.
        title: the kind in a few words; the same for each problem of the kind.
        type: names the kind of the problem; docs/http.md has a section of that name.
        first: with idempotency_key_reused: position, decided_at, kind, asset, amount and accepted of the command that
            stands.
        position: where the command is in the log, `partition:offset`, if that is known.
        problems: what is wrong, field by field.
    """

    code: str
    detail: str
    maybe_written: bool
    remedy: str
    request_id: str
    status: int
    title: str
    type: str
    first: dict[str, Any] | None = None
    position: str | None = None
    problems: tuple[str, ...] | None = None


class ProgressAnswer(Answer):
    """How far one partition is folded, and how many records had which outcome.

    Attributes:
        accepted: of all accounts, so not for a key that is limited to a prefix.
        dead_letters: of all accounts, so not for a key that is limited to a prefix.
        duplicates: of all accounts, so not for a key that is limited to a prefix.
        rejected: of all accounts, so not for a key that is limited to a prefix.
    """

    accepted: int | None
    clock: datetime | None
    dead_letters: int | None
    duplicates: int | None
    folded_at: datetime | None
    generation: int
    next_offset: int
    partition: int
    rejected: int | None
    rules: int


class ReadyAnswer(Answer):
    """Which servers answer."""

    kafka: bool
    postgresql: bool
    ready: bool


class ResentAnswer(Answer):
    """How many events are sent again."""

    deliveries: int


class RuleAnswer(Answer):
    """A rule of alerts."""

    account_prefix: str
    asset: str | None
    below: int | None
    id: str
    kind_: str = Field(..., alias="kind")
    made_at: datetime
    owner: str
    rearm_at: int | None
    within_s: int | None


class RulesAnswer(Answer):
    """The versions of the rules that this release has, and which are in force.

    Attributes:
        in_force: by partition.
    """

    activations: tuple[ActivationAnswer, ...]
    in_force: dict[str, int]
    known: tuple[int, ...]


class ScheduleAnswer(Answer):
    """Credits that come again and again.

    Attributes:
        state: active, finished or ended.
    """

    amount: int
    asset: str
    cap: int | None
    command_id: str
    every: int
    expires_after_ms: int | None
    first_at: datetime | None
    lot_class: str
    next_at: datetime | None
    next_number: int
    period: str
    priority: int
    scope: str | None
    state: str
    until: datetime | None


class SchedulesAnswer(Answer):
    """A page of an account's schedules.

    Attributes:
        next: the cursor of the next page; None after the last.
    """

    next: str | None
    schedules: tuple[ScheduleAnswer, ...]


class SidesAnswer(Answer):
    """The two sides of an asset by the journal.

    Attributes:
        credits: what the accounts have: available, pending and held.
        difference: by how much the sides differ; 0, or something is wrong.
        issued: credits - debt, and all that follows here.
    """

    asset: str
    available: int
    credits: int
    debt: int
    difference: int
    expired: int
    forfeited: int
    held: int
    in_transit: int
    issued: int
    pending: int
    reissued: int
    spent: int
    voided: int


class SpentAnswer(Answer):
    """What was spent in a time.

    Attributes:
        has_more: whether there are more rows than were asked for.
    """

    has_more: bool
    rows: tuple[SpentSumAnswer, ...]
    since: datetime | None
    until: datetime | None


class SpentSumAnswer(Answer):
    """What was spent, and what came back.

    Attributes:
        lot_class: paid, promo, or debt: what was spent without having it.
        reason: of the commands, the first 100 characters. With read:personal only.
        repaid: what paid a debt that was spent before, by the class of what paid it.
        source: of the commands; empty where time did it. With read:personal only.
    """

    asset: str
    lot_class: str | None
    reason: str | None
    refunded: int
    repaid: int
    source: str | None
    spent: int


class StatementAnswer(Answer):
    """What an account had before a time, what changed it in that time, and what it had then.

    Attributes:
        closing: after the whole time, whichever page this is.
        lines: of this page, oldest first.
        next: the cursor of the next page; None after the last.
    """

    account: str
    closing: tuple[StatementBalanceAnswer, ...]
    from_: datetime | None = Field(..., alias="from")
    lines: tuple[StatementLineAnswer, ...]
    next: str | None
    opening: tuple[StatementBalanceAnswer, ...]
    until: datetime | None


class StatementBalanceAnswer(Answer):
    """What the account had of one asset, in its smallest unit."""

    asset: str
    available: int
    debt: int
    held: int
    pending: int


class StatementLineAnswer(Answer):
    """What changed the account, and what it had of the asset afterwards.

    Attributes:
        change: of the available credits, signed.
        command_id: none for what time did, and for a further asset of a command.
        position: of the record that was decided, `partition:offset`.
        reason: with the scope read:personal only.
        source: with the scope read:personal only.
        version: the line's number within the account.
    """

    amount: int
    asset: str
    available: int
    change: int
    command_id: str | None
    debt: int
    decided_at: datetime
    held: int
    kind_: str = Field(..., alias="kind")
    pending: int
    position: str
    reason: str | None
    source: str | None
    version: int


class TotalAnswer(Answer):
    """Where all credits of an asset are, and where they came from.

    Attributes:
        credits: what the accounts have: available, pending and held.
        issued: credits - debt, and all that follows here.
    """

    asset: str
    credits: int
    debt: int
    expired: int
    forfeited: int
    in_transit: int
    issued: int
    reissued: int
    spent: int
    voided: int


class TraceAnswer(Answer):
    """Where a command's credits came from and where they went: the moves of a page, the sums of all.

    Attributes:
        later: of other commands and of time, about what it began.
        made: the lots that it made, each with moves of its credits.
        moves: the command's own.
        next: the cursor of the next page of the moves; None after the last.
        owed: how much of that is still owed.
        refunded: how much of that was refunded.
        spent: what the command spent, owed credits included.
        took: the lots that it moved credits of, with the moves that did.
    """

    decision: DecisionAnswer
    later: tuple[MoveAnswer, ...]
    made: tuple[TracedLotAnswer, ...]
    moves: tuple[MoveAnswer, ...]
    next: str | None
    owed: int
    refunded: int
    spent: int
    took: tuple[TracedLotAnswer, ...]


class TracedLotAnswer(Answer):
    """A lot as it is now, the kind of the command that made it, and moves of its credits."""

    lot: LotAnswer
    made_by: str | None
    moves: tuple[MoveAnswer, ...]


class TransferAnswer(Answer):
    """Credits sent to another account.

    Attributes:
        state: in_transit or settled.
    """

    amount: int
    asset: str
    command_id: str
    state: str
    to_account: str


class TransfersAnswer(Answer):
    """A page of what an account sent to others.

    Attributes:
        next: the cursor of the next page; None after the last.
    """

    next: str | None
    transfers: tuple[TransferAnswer, ...]


class TrialBalanceAnswer(Answer):
    """The sums of the journal up to a position of each partition, and everything that doesn't balance.

    Attributes:
        is_present: whether balances, lots and totals were compared too.
        next_offsets: the first offset that doesn't count, by partition.
    """

    assets: tuple[SidesAnswer, ...]
    balances: bool
    faults: tuple[FaultAnswer, ...]
    is_present: bool
    next_offsets: dict[str, int]


AccountAnswer.model_rebuild()
AccountsAnswer.model_rebuild()
AttemptsAnswer.model_rebuild()
AuditAnswer.model_rebuild()
DeadLetterAnswer.model_rebuild()
DeadLettersAnswer.model_rebuild()
DecisionAnswer.model_rebuild()
DeliveriesAnswer.model_rebuild()
EndedAnswer.model_rebuild()
EndedTotalsAnswer.model_rebuild()
ExpiringAnswer.model_rebuild()
FoundAccountAnswer.model_rebuild()
HeaderAnswer.model_rebuild()
HistoryAnswer.model_rebuild()
HoldsAnswer.model_rebuild()
JournalAnswer.model_rebuild()
LetterResultsAnswer.model_rebuild()
LogRecordAnswer.model_rebuild()
LotsAnswer.model_rebuild()
OneDeadLetterAnswer.model_rebuild()
OperationsAnswer.model_rebuild()
OutcomeAnswer.model_rebuild()
PreviewAnswer.model_rebuild()
RulesAnswer.model_rebuild()
SchedulesAnswer.model_rebuild()
SpentAnswer.model_rebuild()
StatementAnswer.model_rebuild()
TraceAnswer.model_rebuild()
TracedLotAnswer.model_rebuild()
TransfersAnswer.model_rebuild()
TrialBalanceAnswer.model_rebuild()
