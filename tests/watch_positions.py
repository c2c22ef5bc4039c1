"""Reads positions through the views until SIGTERM, then prints what went backwards and which generations were seen.

A statement sees one state: journal and progress in one query must be of the same generation, and the journal must not
hold a row behind the position.
"""

import json
import signal
import sys

from creditfold.projections.connections import connected
from creditfold.stack.settings import load_settings

stopped = False


def stop(*_: object) -> None:
    global stopped
    stopped = True


def main() -> None:
    signal.signal(signal.SIGTERM, stop)
    last: dict[int, int] = {}
    wrong: list[object] = []
    generations: set[int] = set()
    with connected(load_settings().dsn) as connection:
        while not stopped:
            rows = connection.execute(
                """SELECT p.log_partition, p.next_offset, p.generation,
                          (SELECT max(log_offset) FROM ledger.journal j WHERE j.log_partition = p.log_partition)
                   FROM ledger.progress p"""
            ).fetchall()
            for partition, offset, generation, newest in rows:
                if offset < last.get(partition, 0) or (newest or 0) >= offset > 0:
                    wrong.append([partition, offset, last.get(partition), newest, generation])
                last[partition] = offset
                generations.add(generation)
    json.dump([wrong, sorted(generations)], sys.stdout)


main()
