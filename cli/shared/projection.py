"""The connection by which commands read the projection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow


@contextmanager
def projection() -> "Iterator[Connection[TupleRow]]":
    """A connection to the projection that the settings name."""
    from creditfold.common.settings import load_settings
    from creditfold.projections.connections import connected

    with connected(load_settings().dsn) as connection:
        yield connection
