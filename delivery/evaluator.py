"""Holds the journal's lines against the rules of alerts, in the order of the log, and watches the time for them.

Owns where the rules have read, in memory; it is written with what they said. Endpoints follow behind, so that an alert
comes with the line that it is about. What a line means for a rule is alerts.py's.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from creditfold.delivery.alerts import accounts_of, judge
from creditfold.delivery.asker import Asker
from creditfold.projections.delivery.checkpoints import Cursor
from creditfold.projections.delivery.reading import Ends, ends, page_after
from creditfold.projections.delivery.rules import (
    DUE_AT_ONCE,
    AlertRule,
    RulesChangedError,
    alert_cursors,
    alert_rules,
    fired_states,
    notify_due,
    save_judged,
)
from creditfold.projections.queries.windows import JournalRow

#: Seconds between two looks at the rules, and at what ends soon.
LOOK_S = 1.0
#: Seconds between two looks at the journal where there are rules.
PAUSE_S = 0.05


class Evaluator:
    """The rules of alerts, at work.

    Args:
        write: asks PostgreSQL on connections that write.
        read: asks PostgreSQL in a reading transaction.
        epoch: of the process that leads.
    """

    def __init__(self, write: Asker, read: Asker, epoch: int) -> None:
        self._write = write
        self._read = read
        self._epoch = epoch
        self._rules: Sequence[AlertRule] = ()
        self._cursors: dict[int, Cursor] = {}
        self._clocks: dict[int, int] = {}

    async def run(self) -> None:
        """Judge until cancelled. Raises SupersededError where another process leads, and LogChangedError."""
        looked_at = 0.0
        while True:
            if time.monotonic() - looked_at >= LOOK_S:
                looked_at = time.monotonic()
                self._rules = await self._write(alert_rules)
                self._cursors = await self._write(alert_cursors) if self._rules else {}
                await self._notify()
            try:
                has_read = await self._judge_all() if self._rules else False
            except RulesChangedError:
                looked_at = 0.0
                continue
            if not has_read:
                await asyncio.sleep(PAUSE_S if self._rules else LOOK_S)

    async def _judge_all(self) -> bool:
        """Judge what comes next in each partition; whether there was anything."""
        found: Ends | None = await self._write(ends)
        has_read = False
        for partition, cursor in list(self._cursors.items()) if found is not None else ():
            until = 0 if found is None else found.folded.get(partition, 0)
            if found is not None and cursor.place.offset < until:
                has_read |= await self._judge(found, cursor, until)
            elif cursor.place.offset >= until:
                # All that is folded is judged: what time it is, this machine knows.
                self._clocks[partition] = time.time_ns() // 1_000_000
        return has_read

    async def _judge(self, found: Ends, cursor: Cursor, until: int) -> bool:
        partition = cursor.partition
        page = await self._read(page_after, found.log, partition, cursor.place, until, with_alerts=False)
        if page is None:
            return False
        rows: Sequence[JournalRow] = page.journal
        ids = [rule.id for rule in self._rules]
        fired: Any = await self._write(fired_states, ids, accounts_of(rows))
        judged = judge(self._rules, rows, partition, fired)
        last = (rows[-1].account, rows[-1].version) if rows else (cursor.last_account, cursor.last_version)
        moved = Cursor(partition, page.end, *last)
        await self._write(save_judged, self._epoch, ids, moved, judged)
        self._cursors[partition] = moved
        if rows:
            self._clocks[partition] = max(self._clocks.get(partition, 0), rows[-1].decided_at_ms)
        return True

    async def _notify(self) -> None:
        """Say of lots that they end soon, by each partition's clock."""
        if any(rule.kind == "expiring" for rule in self._rules) and self._clocks:
            while await self._write(notify_due, self._epoch, self._clocks) >= DUE_AT_ONCE:
                pass
