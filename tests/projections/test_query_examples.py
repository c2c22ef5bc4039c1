"""The examples in the docstrings of `creditfold.projections.queries` run, on a real projection."""

import inspect
import textwrap

import pytest

from creditfold.common.position import Position
from creditfold.common.settings import Settings
from creditfold.processors.fold.chunk import partition_of
from creditfold.projections import queries
from creditfold.projections.connections import connected, snapshot
from helpers.support import append, fold_log, record

#: What an account without a past has nothing of.
PRINT_NOTHING = {"holds", "transfers", "schedules", "rejections", "dead_letters", "wait_for"}


def examples() -> dict[str, str]:
    """The example of each public function that has one, by the function's name."""
    texts = {name: inspect.getdoc(getattr(queries, name)) or "" for name in queries.__all__}
    return {
        name: textwrap.dedent(text.partition("Example:\n")[2])
        for name, text in texts.items()
        if inspect.isfunction(getattr(queries, name)) and "Example:\n" in text
    }


def test_the_examples_run(ledger_settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """Each by itself; those that find something print it."""
    partition = partition_of(b"ada", ledger_settings.partitions)
    append(ledger_settings, [record("Grant", "welcome", "ada", 500), record("Spend", "order-7", "ada", 10)])
    fold_log(ledger_settings)
    found = examples()
    assert len(found) >= 15
    with connected(ledger_settings.dsn) as connection:
        names = {"queries": queries, "connection": connection, "snapshot": snapshot, "Position": Position}
        names |= {"partition": partition, "position": Position(partition, 0)}
        for name, text in found.items():
            exec(compile(text, name, "exec"), dict(names))  # noqa: S102 - Our own docstrings.
            printed = capsys.readouterr().out
            assert bool(printed) != (name in PRINT_NOTHING), (name, printed)
