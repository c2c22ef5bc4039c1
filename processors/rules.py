"""Brings a version of the rules into force: one record in each partition, and the wait until it is folded.

What a version decides is the ledger's. Knows no output.
"""

from collections.abc import Sequence

from psycopg import Connection
from psycopg.rows import TupleRow

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.producers.client import CommandProducer
from creditfold.producers.models.commands import encode_activation
from creditfold.projections import queries


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
    if not older:
        return []
    with CommandProducer(settings.kafka_client, settings.commands_topic, delivery_timeout_s=timeout_s) as producer:
        positions = [
            producer.append_record(encode_activation(version, partition, source=source, reason=reason))
            for partition in older
        ]
    for position in positions:
        queries.wait_for(connection, position, timeout_s)
    return positions
