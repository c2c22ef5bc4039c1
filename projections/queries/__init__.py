"""What read services ask the projection: balances, journal, statements, lots, traces, dead letters, progress, outcomes.

Public: everything in `__all__`. Each function takes a connection of `creditfold.projections.connections.connected`,
reads the views in schema `ledger`, and writes nothing. Amounts are whole numbers in the asset's smallest unit, instants
are aware datetimes in UTC.

Example:
    from creditfold.common.settings import load_settings
    from creditfold.projections import queries
    from creditfold.projections.connections import connected

    with connected(load_settings().dsn) as connection:
        for balance in queries.balances(connection, "ada"):
            print(balance.asset, balance.available)
"""

from creditfold.projections.queries.account_lists import (
    EVERY_HOLD,
    EVERY_LOT,
    EVERY_SCHEDULE,
    EVERY_TRANSFER,
    IN_TRANSIT,
    LIVE_LOTS,
    OPEN_HOLDS,
    Listing,
    listed,
    listed_row,
)
from creditfold.projections.queries.balances import Balance, balances, balances_after, balances_as_of
from creditfold.projections.queries.balances_now import (
    BalanceNow,
    InconsistentAccountError,
    UsableBalance,
    balances_now,
    clock,
    standing_and_balances,
    usable_now,
)
from creditfold.projections.queries.dead_letters import DeadLetterState, dead_letter, dead_letters, dead_letters_with
from creditfold.projections.queries.ended import Ended, EndedPlace, ended
from creditfold.projections.queries.expiring import (
    Expiring,
    ExpiringDay,
    ExpiringLot,
    ExpiringMonth,
    NextEnd,
    expiring,
    expiring_totals,
    next_ends,
)
from creditfold.projections.queries.hours import EndedSum, PartialHourError, SpentSum, ended_totals, spent
from creditfold.projections.queries.journal import (
    FailedBatch,
    Rejection,
    failed_batches,
    first_decision,
    history,
    rejection_totals,
    rejections,
)
from creditfold.projections.queries.ledger_lines import (
    JournalPage,
    JournalPlace,
    Total,
    UnknownPartitionError,
    journal,
    totals,
)
from creditfold.projections.queries.lots import (
    AccountState,
    Hold,
    Lot,
    Schedule,
    Transfer,
    account_state,
    account_state_as_of,
)
from creditfold.projections.queries.outcomes import (
    OtherTopicError,
    ProjectedOutcomes,
    UnexplainedOutcomeError,
    await_outcome,
    outcome_at,
    outcomes_at,
)
from creditfold.projections.queries.progress import (
    NotYetFoldedError,
    PartitionProgress,
    RulesActivated,
    activations,
    bookmarks,
    progress,
    standing,
    wait_for,
)
from creditfold.projections.queries.search import (
    AccountCount,
    AccountFilter,
    FoundAccount,
    FoundAccounts,
    FoundBalance,
    FoundCommand,
    NotSearchableError,
    count_accounts,
    search_accounts,
    searchable_metadata,
)
from creditfold.projections.queries.statement import (
    Statement,
    StatementBalance,
    StatementLine,
    StatementPlace,
    last_changes,
    statement,
)
from creditfold.projections.queries.trace import Move, Trace, TracedLot, TracePlace, trace
from creditfold.projections.queries.transit import SentTransfer, transfers_in_transit

__all__ = [
    "EVERY_HOLD",
    "EVERY_LOT",
    "EVERY_SCHEDULE",
    "EVERY_TRANSFER",
    "IN_TRANSIT",
    "LIVE_LOTS",
    "OPEN_HOLDS",
    "AccountCount",
    "AccountFilter",
    "AccountState",
    "Balance",
    "BalanceNow",
    "DeadLetterState",
    "Ended",
    "EndedPlace",
    "EndedSum",
    "Expiring",
    "ExpiringDay",
    "ExpiringLot",
    "ExpiringMonth",
    "FailedBatch",
    "FoundAccount",
    "FoundAccounts",
    "FoundBalance",
    "FoundCommand",
    "Hold",
    "InconsistentAccountError",
    "JournalPage",
    "JournalPlace",
    "Listing",
    "Lot",
    "Move",
    "NextEnd",
    "NotSearchableError",
    "NotYetFoldedError",
    "OtherTopicError",
    "PartialHourError",
    "PartitionProgress",
    "ProjectedOutcomes",
    "Rejection",
    "RulesActivated",
    "Schedule",
    "SentTransfer",
    "SpentSum",
    "Statement",
    "StatementBalance",
    "StatementLine",
    "StatementPlace",
    "Total",
    "Trace",
    "TracePlace",
    "TracedLot",
    "Transfer",
    "UnexplainedOutcomeError",
    "UnknownPartitionError",
    "UsableBalance",
    "account_state",
    "account_state_as_of",
    "activations",
    "await_outcome",
    "balances",
    "balances_after",
    "balances_as_of",
    "balances_now",
    "bookmarks",
    "clock",
    "count_accounts",
    "dead_letter",
    "dead_letters",
    "dead_letters_with",
    "ended",
    "ended_totals",
    "expiring",
    "expiring_totals",
    "failed_batches",
    "first_decision",
    "history",
    "journal",
    "last_changes",
    "listed",
    "listed_row",
    "next_ends",
    "outcome_at",
    "outcomes_at",
    "progress",
    "rejection_totals",
    "rejections",
    "search_accounts",
    "searchable_metadata",
    "spent",
    "standing",
    "standing_and_balances",
    "statement",
    "totals",
    "trace",
    "transfers_in_transit",
    "usable_now",
    "wait_for",
]
