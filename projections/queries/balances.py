"""An account's balances as they are stored: now, as of a position or an instant, after a journal line.

Reads the views in schema `ledger` only. Amounts are in the asset's smallest unit.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import Connection

from creditfold.common.position import Position
from creditfold.projections.connections import rows_of
from creditfold.projections.queries.journal import last_version
from creditfold.projections.queries.progress import NotYetFoldedError, has_passed


class Balance(NamedTuple):
    """An account's credits of one asset after its journal line number `version`, as of a position in the log.

    Amounts are in the asset's smallest unit. `credit_limit` is how large the debt may become.
    """

    account_id: str
    asset: str
    available: int
    version: int
    log_partition: int
    log_offset: int
    pending: int = 0
    held: int = 0
    debt: int = 0
    credit_limit: int = 0


def balances(connection: Connection[Any], account: str) -> Sequence[Balance]:
    """An account's balances as they are stored: as of its last settling, by asset.

    What ended or began since that settling isn't counted; `balances_now` counts it.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.

    Returns:
        One row for each asset, ordered by asset; empty for an account that was never used.

    Example:
        >>> [(row.asset, row.available, row.held) for row in balances(connection, "ada")]
        [('credits', 280, 40)]
    """
    query = """SELECT account_id, asset, available, version, log_partition, log_offset, pending, held, debt,
                      credit_limit
               FROM ledger.balances WHERE account_id = %s ORDER BY asset"""
    return rows_of(connection, Balance, query, (account,))


def balances_as_of(
    connection: Connection[Any], account: str, partition: int, *, until_ms: int | None = None, until: int | None = None
) -> Sequence[Balance]:
    """An account's balances after the last decision up to an instant or an offset of its partition, by asset.

    They are equal to those of a rebuild that ends there.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        partition: the partition that the account belongs to.
        until_ms: an instant of the log's clock in milliseconds since 1970 UTC, inclusive; None for any.
        until: offset of the last record that counts; None for any.

    Returns:
        One row for each asset, ordered by asset.

    Raises:
        NotYetFoldedError: the fold hasn't passed that offset, or there is no such partition.

    Example:
        >>> first = first_decision(connection, "ada", "welcome")
        >>> balances_as_of(connection, "ada", first.log_partition, until=first.log_offset)[0].available
        500
    """
    if until is not None and not has_passed(connection, Position(partition, until)):
        raise NotYetFoldedError(
            f"The fold has not reached {Position(partition, until)} yet.", "See `creditfold status`, and ask again."
        )
    version = last_version(connection, account, until_ms=until_ms, until=until)
    return rows_of(
        connection,
        Balance,
        """SELECT j.*, coalesce(l.credit_limit, 0) AS credit_limit
           FROM ledger.balances b
           CROSS JOIN LATERAL (
               SELECT account_id, asset, balance AS available, version, log_partition, log_offset, pending, held, debt
               FROM ledger.journal WHERE account_id = b.account_id AND asset = b.asset AND version <= %(version)s
               ORDER BY version DESC LIMIT 1
           ) j
           LEFT JOIN LATERAL (
               SELECT (details ->> 'limit')::bigint AS credit_limit
               FROM ledger.journal WHERE account_id = b.account_id AND asset = b.asset AND version <= %(version)s
                   AND kind = 'set_credit_limit' AND accepted
               ORDER BY version DESC LIMIT 1
           ) l ON true
           WHERE b.account_id = %(account)s ORDER BY asset""",
        {"account": account, "version": version},
    )


def balances_after(connection: Connection[Any], account: str, version: int) -> Sequence[Balance]:
    """An account's balances after one of its journal lines, by asset.

    Args:
        connection: a reader's connection to the projection (`connected`).
        account: its id.
        version: the line's number within the account, from 1.

    Returns:
        One row for each asset, ordered by asset. `credit_limit` is 0 throughout: the journal's lines don't have it.

    Example:
        >>> balances_after(connection, "ada", 1)[0].available
        500
    """
    return rows_of(
        connection,
        Balance,
        """SELECT j.* FROM ledger.balances b
           CROSS JOIN LATERAL (
               SELECT account_id, asset, balance AS available, version, log_partition, log_offset, pending, held, debt
               FROM ledger.journal WHERE account_id = b.account_id AND asset = b.asset AND version <= %s
               ORDER BY version DESC LIMIT 1
           ) j WHERE b.account_id = %s ORDER BY asset""",
        (version, account),
    )
