"""What each view and column of the schema `ledger` means: the comments in the database, the tables of docs/reading.md.

Owns these words. Refuses to know how a view selects, and when comments are written.
"""

from collections.abc import Mapping
from typing import NamedTuple

from psycopg import sql


class Relation(NamedTuple):
    """A view or a table that readers see: what a row is, and what each column has, in the columns' order."""

    text: str
    columns: Mapping[str, str]
    is_table: bool = False


_PLACE = {
    "log_partition": "partition of the record that changed the row last",
    "log_offset": "offset of that record in its partition",
}
_CAUSE = {
    "log_partition": "partition of the record that caused it",
    "log_offset": "offset of that record in its partition",
}
_RECORD = {"log_partition": "partition of the record", "log_offset": "offset of the record in its partition"}
_ACCOUNT = {"account_id": "the account"}
_ASSET = {"asset": "the asset of the credits; amounts are whole numbers in its smallest unit"}
_MADE = {"made": "the order in which the partition's log made things, a growing number; above 2^53 in a long log"}
_SCOPE = {"scope": "the only use that the credits are for; NULL for any"}
_TERMS = {"class": "`paid` or `promo`", "priority": "0 to 100; lower is spent first"}
_AFTER = {
    "pending": "credits in lots whose window wasn't open yet, after it",
    "held": "credits set aside by holds, after it",
    "debt": "debt, after it",
}
_DETAILS = {
    "step": "of a rejected batch: the index of the step that failed, from 0; NULL otherwise",
    "details": "JSON of the command's fields that have no column here and aren't at their defaults; NULL if none is",
}

#: In the order of docs/reading.md.
RELATIONS: Mapping[str, Relation] = {
    "balances": Relation(
        "One row for each account and asset with a decision, as of the account's last settling: its last "
        "journal line. What ended or began since is not in it; ledger.balances_now counts it.",
        {
            **_ACCOUNT,
            **_ASSET,
            "available": "the credits that can be spent, those for one use only among them; up to 2^62",
            "version": "the account's count of journal lines at the last one about this asset",
            **_PLACE,
            "pending": "credits in lots whose window isn't open yet",
            "held": "credits that are set aside by holds",
            "debt": "what is owed, 0 or more",
            "credit_limit": "how large the debt may become",
        },
    ),
    "balances_now": Relation(
        "One row for each row of ledger.balances, as the fold would find it if it settled the account at this instant: "
        "lots that ended, lots that began and holds that lapsed since are counted, and debt is repaid from what "
        "came back. "
        "Turns of schedules that fell due since are not: schedule_due says where one did. Read it by account.",
        {
            **_ACCOUNT,
            **_ASSET,
            "available": "the credits that can be spent now, those for one use only among them; up to 2^62",
            "pending": "credits in lots whose window isn't open yet",
            "held": "credits that are set aside by holds that haven't lapsed",
            "debt": "what is owed now",
            "credit_limit": "how large the debt may become",
            "stored_available": "`available` of ledger.balances: as of the account's last settling",
            "version": "the account's count of journal lines at the last one about this asset",
            **_PLACE,
            "at": "the instant that counts as now, UTC: the server's `now()`, or the partition's log clock if "
            "it is later",
            "schedule_due": "whether a schedule of this asset fell due since: what its turns grant is missing here",
        },
    ),
    "journal": Relation(
        "One row for each decision, kept for good: each command that was accepted or rejected, and what time did "
        "before it.",
        {
            **_CAUSE,
            **_ACCOUNT,
            "version": "the line's number within the account, from 1 without gaps",
            "command_id": "the command's id, unique within the account; NULL where there is none",
            "kind": "`grant`, `spend`, `hold` and so on; `settled` for what time did",
            "asset": "what the command named, or what changed; empty where there is none",
            "amount": "what the command asked for, in the asset's smallest unit; 0 where it names none",
            "change": "what `available` changed by, signed; 0 if rejected",
            "balance": "what was available after it; up to 2^62",
            "accepted": "whether it took effect",
            "rejection": "the reason if it didn't; NULL if it did",
            "rules": "the version of the rules that decided it",
            "decided_at": "the log's clock when it was decided, UTC",
            "occurred_at": "when it happened at its source, UTC; NULL if the source didn't say",
            "source": "who sent it; empty if unsaid",
            "note": "the command's `reason`; empty if unsaid",
            **_AFTER,
            **_DETAILS,
            "facts": "JSON of what happened: `kind`, `at` (milliseconds since 1970 UTC), `ref` (what it is "
            "about), `moves`, "
            "the `terms` of a new lot, and whatever else makes the state of it",
        },
    ),
    "journal_texts": Relation(
        "The lines of ledger.journal once more, to search many of them for an id. Read it by account.",
        {
            **_ACCOUNT,
            "version": "the line's number within the account, from 1 without gaps",
            "command_id": "the command's id, unique within the account; NULL where there is none",
            "kind": "`grant`, `spend`, `hold` and so on; `settled` for what time did",
            "details": _DETAILS["details"],
            "facts": "`facts` of ledger.journal as the text that it is",
        },
    ),
    "rejections": Relation(
        "The rows of ledger.journal that were rejected.",
        {
            **_CAUSE,
            **_ACCOUNT,
            "version": "the journal line's number within the account",
            "command_id": "the command's id, unique within the account",
            "kind": "`grant`, `spend`, `hold` and so on",
            "asset": "what the command named; empty where it names none",
            "amount": "what the command asked for, in the asset's smallest unit",
            "balance": "what was available; up to 2^62",
            "rejection": "the reason",
            "decided_at": "the log's clock when it was decided, UTC",
            "source": "who sent it; empty if unsaid",
            "note": "the command's `reason`; empty if unsaid",
            **_DETAILS,
        },
    ),
    "lots": Relation(
        "One row for each lot that there ever was, as of the account's last settling.",
        {
            **_ACCOUNT,
            "command_id": "the command that made it",
            "number": "which of that command's lots, from 1",
            **_ASSET,
            "amount": "what came in: the sum of the next eight columns",
            "remaining": "what of it can be spent, once the window is open",
            "held": "what of it is set aside by holds",
            "spent": "what of it was spent",
            "expired": "what of it expired",
            "voided": "what of it was voided",
            "forfeited": "what of it was forfeited when the account was closed",
            "reissued": "what of it went into a new lot by a refund",
            "transferred": "what of it was sent to other accounts",
            "state": "`pending`, `active`, `empty`, `expired` or `voided`; compare the window with now() for "
            "what is so by now",
            "is_live": "whether something remains or is held",
            **_TERMS,
            **_SCOPE,
            "effective_at": "when its window opens, UTC",
            "expires_at": "when its window closes, UTC, that instant excluded; NULL for never",
            "source": "where its credits came from: `issued`, `in_transit` or `reissued`",
            **_MADE,
            **_PLACE,
            "is_pending": "whether its state is `pending`: an index finds accounts by it",
        },
    ),
    "expiring": Relation(
        "What of each live lot will end unless it is spent before, as of its account's last settling. For sums over "
        "all accounts.",
        {
            **_ACCOUNT,
            **_ASSET,
            "class": "`paid` or `promo`",
            "remaining": "what of it can be spent, once the window is open",
            "held": "what of it is set aside by holds; lost where it comes back after the end",
            "expires_at": "when its window closes, UTC, that instant excluded; it may have passed since then",
            "expires_at_ms": "the same in milliseconds since 1970, which sums over many lots are quicker by",
        },
    ),
    "holds": Relation(
        "One row for each hold that there ever was, as of the account's last settling.",
        {
            **_ACCOUNT,
            "command_id": "the hold's id: that of its command",
            **_ASSET,
            "taken": "what it set aside at first",
            "held": "what it still has",
            "state": "`open`, `lapsed`, or `closed` when all was captured or released; compare `deadline` with now()",
            "deadline": "when it lapses, UTC, that instant included",
            "slices": "JSON of what it still has, in the order of its capture: lot's command, lot's number, amount",
            **_MADE,
            **_PLACE,
            "is_open": "whether its state is `open`: an index finds accounts by it",
        },
    ),
    "debts": Relation(
        "One row for each spend that is owed, wholly or in part.",
        {
            **_ACCOUNT,
            "command_id": "the spend",
            **_ASSET,
            "debt": "what of it is owed",
            **_PLACE,
        },
    ),
    "changed_spends": Relation(
        "One row for each spend or capture of which something was refunded, or that was owed at some time, as of the "
        "account's last settling.",
        {
            **_ACCOUNT,
            "command_id": "the spend or the capture",
            **_ASSET,
            "debt": "what of it is owed",
            "refundable": "what of it wasn't refunded, what is owed included",
            **_PLACE,
        },
    ),
    "balance_endings": Relation(
        "One row for each balance whose lots, or some of them, stand in its row and end if they aren't spent before.",
        {
            **_ACCOUNT,
            **_ASSET,
            "next_at_ms": "when the first of them ends, in milliseconds since 1970 UTC: an index finds accounts by it",
            "ends_at_ms": "NULL, as in ledger.lot_endings of a lot whose window is open",
            "log_partition": "the account's partition",
        },
    ),
    "lot_endings": Relation(
        "One row for each other lot that ends if it isn't spent before.",
        {
            **_ACCOUNT,
            **_ASSET,
            "next_at_ms": "when it ends, or when its window opens, in milliseconds since 1970 UTC: an index finds "
            "accounts by it",
            "ends_at_ms": "when it ends if its window isn't open yet, in milliseconds since 1970 UTC; NULL if it is",
            "log_partition": "the account's partition",
        },
    ),
    "transfers": Relation(
        "What was sent to other accounts, one row for each transfer, at its sender. What arrived is in the "
        "receiver's lots.",
        {
            **_ACCOUNT,
            "command_id": "the transfer's id: that of its command",
            **_ASSET,
            "to_account": "the receiver",
            "amount": "how much was sent",
            "state": "`in_transit`, or `settled`: it arrived or came back",
            "parcels": "JSON of its slices: lot's command, lot's number, amount, and the lot's terms",
            **_PLACE,
            "is_open": "whether its state is `in_transit`: an index finds accounts by it and `log_partition`",
        },
    ),
    "schedules": Relation(
        "Grants that recur, one row for each, as of the account's last settling.",
        {
            **_ACCOUNT,
            "command_id": "the schedule's id: that of its command",
            **_ASSET,
            "amount": "what a turn grants",
            "every": "how many periods lie between two turns",
            "period": "`days` or `months`, by the calendar in UTC",
            "state": "`active`, `finished` (its time is over) or `ended` (cancelled, or the account closed)",
            "next_number": "the number of its next turn, from 1",
            "next_at": "when its next turn falls due, UTC; NULL if it has none left",
            "first_at": "when its first turn fell due, UTC",
            "until": "the end of its time, UTC, that instant excluded; NULL for none",
            "cap": "how much of its own lots may be left at most; NULL for no cap",
            **_TERMS,
            **_SCOPE,
            "expires_after_ms": "how long its lots live, in milliseconds; NULL for unlimited",
            **_MADE,
            **_PLACE,
        },
    ),
    "accounts": Relation(
        "Accounts that were once frozen or closed, or had another decision of no asset; all others are open.",
        {
            **_ACCOUNT,
            "is_closed": "whether it is closed, which is final",
            "frozen": "`spending` or `all` while it is frozen; NULL while it isn't",
            "version": "the number of its last journal line of no asset",
            **_CAUSE,
        },
    ),
    "moves": Relation(
        "Each move of credits from one place to another, as an auditor wants it. Read it by account: over all "
        "accounts it "
        "takes the whole journal apart.",
        {
            **_CAUSE,
            **_ACCOUNT,
            "version": "the journal line's number within the account",
            "fact": "the number of the fact in the line, from 1",
            "move": "the number of the move in the fact, from 1; with `version` and `fact`, the order of moves",
            **_ASSET,
            "command_id": "the command that did it; NULL where time did",
            "kind": "the fact: `granted`, `spent`, `held`, `captured`, `expired`, `repaid` and so on",
            "at": "the fact's instant, UTC",
            "ref": "the lot's command, the hold, the spend, the transfer or the schedule that it is about",
            "lot_command": "the command that made the lot; NULL for debt",
            "lot_number": "which of that command's lots; NULL for debt",
            "source": "the place that it went from: `remaining`, `held`, `spent`, `debt`, `issued`, `expired`, "
            "`voided`, "
            "`forfeited`, `reissued`, `in_transit`",
            "target": "the place that it went to, of the same places",
            "amount": "how much moved",
            "decided_at": "the log's clock when it was decided, UTC",
        },
    ),
    "metadata": Relation(
        "What decided commands say under the searchable keys of metadata. Of all others the ledger has a digest only.",
        {
            "key": "the name of the entry, one of ledger.searchable_metadata",
            "value": "its value, if that has 1 to 256 characters, none of which is a control character",
            "account_id": "the account of the command",
            **_CAUSE,
        },
    ),
    "trace_contexts": Relation(
        "The contexts of the distributed traces that commands of the last seven days came with. No part of the ledger.",
        {**_CAUSE, "traceparent": "as W3C Trace Context has it"},
    ),
    "searchable_metadata": Relation(
        "The keys of metadata that the live generation keeps values of, from the log's first record on.",
        {"key": "the name of the entry"},
    ),
    "totals": Relation(
        "Double entry by partition and asset, kept with every transaction: credits - debt + spent + expired + voided + "
        "forfeited + reissued + in_transit = issued, or PostgreSQL refuses the row. Numbers of any size.",
        {
            "log_partition": "the partition",
            **_ASSET,
            "credits": "what the partition's accounts have: available, pending and held",
            "debt": "what they owe",
            "issued": "the sum of what was issued",
            "spent": "the sum of what is spent, refunds taken off",
            "expired": "the sum of what expired",
            "voided": "the sum of what was voided",
            "forfeited": "the sum of what was forfeited",
            "reissued": "the sum of what went into other lots; 0 once each is there",
            "in_transit": "what is on its way to other accounts; below 0 where more arrived from other "
            "partitions than left",
        },
    ),
    "hourly_totals": Relation(
        "What happened in each hour of the log's clock, by partition, asset, class, source and reason; kept with every "
        "transaction. Numbers of any size.",
        {
            "hour": "where the hour begins, UTC",
            "log_partition": "the partition",
            **_ASSET,
            "what": "`spent`, `refunded`, `repaid` (what paid a debt that was spent before), `expired`, `voided`, "
            "`forfeited`, or `lapsed` (what lapsed holds gave back)",
            "class": "`paid` or `promo`; NULL for what was spent without having it",
            "source": "who sent the command; empty where time did it, or if unsaid",
            "reason": "the first 100 characters of the command's `reason`; empty where time did it, or if unsaid",
            "amount": "the sum",
        },
    ),
    "ended": Relation(
        "What expired, was voided or forfeited, and what lapsed holds gave back to their lots: one row for each lot "
        "and time. Found by decided_at or by account.",
        {
            **_CAUSE,
            **_ACCOUNT,
            "version": "the journal line's number within the account",
            "fact": "the number of the fact in the line, from 1",
            "move": "the number of the move in the fact, from 1",
            "decided_at": "the log's clock when it was settled, UTC",
            **_ASSET,
            "what": "`expired`, `voided`, `forfeited` or `lapsed`",
            "amount": "how much of the lot",
            "at": "when it ended, UTC",
            "lot_command": "the command that made the lot",
            "lot_number": "which of that command's lots",
            "hold": "the hold that lapsed; NULL otherwise",
            "kind": "of the command that ended it; `settled` where time did",
            "command_id": "that command's id; NULL where time did it",
            "source": "who sent that command; empty if unsaid",
            "note": "that command's `reason`; empty if unsaid",
        },
    ),
    "dead_letters": Relation(
        "The records of the log that can't be folded, one row for each.",
        {
            **_RECORD,
            "reason": "why it can't be folded, as a word",
            "detail": "why, as a sentence",
            "appended_at": "its time in the log, UTC; NULL where that is beyond any calendar",
            "key": "the bytes of its key, untouched; NULL if it has none",
            "value": "the bytes of its value, untouched; NULL if it has none",
            "headers": "its headers: pairs of a name and a value in base64",
        },
    ),
    "dead_letter_states": Relation(
        "What was decided about each dead letter, one row for each.",
        {
            **_RECORD,
            "state": "`open`, `redriving` (begun and not finished), `redriven` or `discarded`",
            "decided_by": "who decided; NULL where nobody did",
            "decided_at": "when, UTC; NULL where only the log records it",
            "note": "why",
            "corrected": "whether the redriven command is another than the record's",
            "to_partition": "partition of the record that mends it",
            "to_offset": "offset of the record that mends it",
        },
    ),
    "activations": Relation(
        "The records that put another version of the rules into force, one row for each.",
        {
            **_RECORD,
            "rules": "the version that decides what follows in the partition",
            "activated_at": "the log's clock, UTC",
            "command_id": "the record's own id",
            "source": "who sent it",
            "note": "why",
        },
    ),
    "redrives": Relation(
        "The records whose headers name the dead letter that they mend, one row for each.",
        {
            "of_partition": "partition of the dead letter",
            "of_offset": "offset of the dead letter",
            **_RECORD,
            "decided_by": "who decided",
            "note": "why",
        },
    ),
    "progress": Relation(
        "How far the log is folded, one row for each partition.",
        {
            "topic": "the command topic",
            "log_partition": "the partition",
            "next_offset": "everything before it is folded",
            "accepted": "how many of its records were accepted commands",
            "rejected": "how many were rejected commands",
            "duplicates": "how many were commands that were decided before",
            "dead_letters": "how many can't be folded",
            "records": "how many there were: accepted, rejected, duplicates, dead letters, activations and ticks",
            "clock": "the log's clock: the latest append time folded, UTC; NULL before the first record",
            "folded_at": "when the last chunk was written, UTC, by the database server's clock",
            "epoch": "the claim in force: a number that only grows, and is never given twice",
            "owner": "the worker that made the claim",
            "activations": "how many were control records that activated other rules",
            "rules": "the version of the rules in force",
            "generation": "which generation of the projection the views show; another number means that it was "
            "switched",
            "chain": "the hash chain over all outcomes so far",
            "ticks": "how many were ticks",
            "topic_id": "Kafka's id of the topic that is folded; another one means that the log was replaced",
            "last_offset": "offset of the last record that was folded; -1 before the first",
            "last_digest": "a digest of that record: the log must still hold it there",
        },
    ),
    "generations": Relation(
        "The generations of the projection, one row for each; what `creditfold generations` shows.",
        {
            "number": "the generation's number; its tables are in the schema ledger_ and the number in four digits",
            "state": "`building`, `ready`, `live` (what the views show) or `retired`",
            "layout": "the version of its tables",
            "purpose": "what it was made for, in a word",
            "forced_rules": "the version of the rules that decides everything in it; NULL for those that the "
            "log activates",
            "until_ms": "where its fold ends by the log's clock, in milliseconds since 1970 UTC; NULL for no such end",
            "until_offsets": "where its fold ends, as the next offset by partition; NULL for the log's end",
            "made_at": "when it was made, UTC",
            "ready_at": "when its fold ended, UTC; NULL before",
            "activated_at": "when the views were switched to it, UTC; NULL before",
            "retired_at": "when the views were switched to another, UTC; NULL before",
            "note": "the note that was given with it",
        },
        is_table=True,
    ),
    "dead_letter_decisions": Relation(
        "What people decided about dead letters, of every log; ledger.dead_letter_states shows it with what the "
        "log knows.",
        {
            "topic_id": "Kafka's id of the command topic",
            **_RECORD,
            "decision": "`redrive` or `discard`",
            "decided_by": "who decided",
            "decided_at": "when, UTC",
            "note": "why",
            "corrected": "whether the redriven command is another than the record's",
            "key": "the key that is appended; NULL where nothing is",
            "value": "the value that is appended; NULL where nothing is",
            "to_partition": "partition of the record that mends it; NULL until it is appended",
            "to_offset": "offset of the record that mends it; NULL until it is appended",
        },
        is_table=True,
    ),
    "proofs": Relation(
        "When each kind of proof was done last and found nothing wrong; what the metrics show. Of no generation, and "
        "no part of the ledger.",
        {
            "kind": "`verify`: the live generation equals the log; `archive`: the log was archived to its end",
            "passed_at": "when, UTC, by PostgreSQL's clock",
        },
        is_table=True,
    ),
    "heartbeats": Relation(
        "The last sign of life of each worker and publisher; what `creditfold status` judges. Of no generation, and no "
        "part of the ledger.",
        {
            "role": "`worker` or `publisher`",
            "owner": "the process's name, as ledger.progress has it: its host and pid",
            "host": "the machine that it runs on",
            "pid": "its process id there",
            "state": "`starting`, `running` or `stopped`",
            "waits_for": "the server that it waits for, and why; empty where it waits for none",
            "turned_s": "for how many seconds each of its loops has stood still, by the loop's name",
            "partitions": "what it does in each partition that it holds, and for how many seconds",
            "started_at": "when it was started, UTC",
            "beat_at": "when it gave this sign, UTC, by PostgreSQL's clock",
        },
        is_table=True,
    ),
}

SCHEMA_TEXT = (
    "The ledger for readers. Amounts are whole numbers in the asset's smallest unit, instants are timestamptz "
    "(UTC). The "
    "views are the contract; the tables behind them may move. See docs/reading.md."
)


def comment_statements(name: str) -> sql.Composed:
    """What writes the comments of one view or table and of its columns, as one script."""
    relation = RELATIONS[name]
    kind = sql.SQL("TABLE" if relation.is_table else "VIEW")
    parts = [
        sql.SQL("COMMENT ON {} {} IS {}").format(kind, sql.Identifier("ledger", name), sql.Literal(relation.text)),
        *(
            sql.SQL("COMMENT ON COLUMN {} IS {}").format(sql.Identifier("ledger", name, column), sql.Literal(text))
            for column, text in relation.columns.items()
        ),
    ]
    return sql.SQL("; ").join(parts)
