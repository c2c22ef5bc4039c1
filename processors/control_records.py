"""Appends control records on demand, one to each partition, and waits until they are folded: activations and ticks.

What a version of the rules decides is the ledger's, when a worker ticks is in `ticks.py`. Knows no output.
"""

import time
from collections.abc import Iterable, Sequence

from psycopg import Connection
from psycopg.rows import TupleRow

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.processors.ticks import number_of_tick, tick_record
from creditfold.producers.client import CommandProducer
from creditfold.producers.models.commands import Encoded, encode_activation
from creditfold.projections import queries
from creditfold.projections.queries.background import standings


def activate_rules(
    connection: Connection[TupleRow], settings: Settings, version: int, *, source: str, reason: str, timeout_s: float
) -> Sequence[Position]:
    """Append an activation to each partition in which an older version is in force, and wait until all are folded.

    Args:
        connection: to the projection.
        settings: where Kafka is.
        version: of the rules.
        source: who does it.
        reason: why, for people.
        timeout_s: seconds to wait for Kafka, and then for the fold of each.

    Returns:
        The positions of the records; none where this version or a later one is in force everywhere.

    Raises:
        AppendError: a record wasn't confirmed.
        NotYetFoldedError: a record wasn't folded in time.
    """
    older = [row.log_partition for row in queries.progress(connection) if row.rules < version]
    records = (encode_activation(version, partition, source=source, reason=reason) for partition in older)
    return _append_and_wait(connection, settings, records, timeout_s) if older else []


def append_ticks(
    connection: Connection[TupleRow], settings: Settings, *, source: str, timeout_s: float
) -> Sequence[Position]:
    """Append a tick to each partition, and wait until all are folded.

    Args:
        connection: to the projection.
        settings: where Kafka is.
        source: who does it.
        timeout_s: seconds to wait for Kafka, and then for the fold of each.

    Returns:
        The positions of the records.

    Raises:
        AppendError: a record wasn't confirmed.
        NotYetFoldedError: a record wasn't folded in time.
    """
    now_ms = time.time_ns() // 1_000_000
    ticks = [
        tick_record(partition, number_of_tick(standing, now_ms), now_ms, source)
        for partition, standing in sorted(standings(connection).items())
    ]
    records = (Encoded(None, tick.value, partition=tick.partition) for tick in ticks)
    return _append_and_wait(connection, settings, records, timeout_s)


def _append_and_wait(
    connection: Connection[TupleRow], settings: Settings, records: Iterable[Encoded], timeout_s: float
) -> Sequence[Position]:
    with CommandProducer(settings.kafka_client, settings.commands_topic, delivery_timeout_s=timeout_s) as producer:
        positions = [producer.append_record(record) for record in records]
    for position in positions:
        queries.wait_for(connection, position, timeout_s)
    return positions
