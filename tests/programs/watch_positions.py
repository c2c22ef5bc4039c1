"""Reads positions through the views until SIGTERM, then prints what went backwards and which generations were seen.

The number of each generation is printed when it is seen first, too.

With an argument it takes the views in the other order, so that a switch can't please it and another reader at once.

A statement sees one state: journal and progress in one query must be of the same generation, and the journal must not
hold a row behind the position.
"""

import json
import signal
import sys
import time

from creditfold.common.settings import load_settings
from creditfold.projections.connections import connected

PROGRESS_FIRST = """
    SELECT p.log_partition, p.next_offset, p.generation,
           (SELECT max(log_offset) FROM ledger.journal j WHERE j.log_partition = p.log_partition)
    FROM ledger.progress p"""
JOURNAL_FIRST = """
    SELECT p.log_partition, p.next_offset, p.generation, j.newest
    FROM (SELECT log_partition, max(log_offset) AS newest FROM ledger.journal GROUP BY log_partition) j
    RIGHT JOIN ledger.progress p ON j.log_partition = p.log_partition"""

#: Between two readings, in seconds: about as long as one takes.
PAUSE_S = 0.002

stopped = False


def stop(*_: object) -> None:
    global stopped
    stopped = True


def main() -> None:
    signal.signal(signal.SIGTERM, stop)
    statement = JOURNAL_FIRST if sys.argv[1:] else PROGRESS_FIRST
    last: dict[int, int] = {}
    wrong: list[object] = []
    generations: set[int] = set()
    with connected(load_settings().dsn) as connection:
        while not stopped:
            rows = connection.execute(statement).fetchall()
            for partition, offset, generation, newest in rows:
                if offset < last.get(partition, 0) or (newest or 0) >= offset > 0:
                    wrong.append([partition, offset, last.get(partition), newest, generation])
                last[partition] = offset
                if generation not in generations:
                    print(generation, flush=True)
                    generations.add(generation)
            # Without one, two of these have all of two processors, and what they watch takes twice as long.
            time.sleep(PAUSE_S)
    json.dump([wrong, sorted(generations)], sys.stdout)


main()
