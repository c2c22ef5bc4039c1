"""What is known of generations, and what comparisons of them came to, as plain JSON. Compares nothing itself."""

from typing import Any

from creditfold.common.documents import as_json
from creditfold.common.position import Position
from creditfold.processors.rebuild.steps import Switch
from creditfold.processors.rebuild.verify import Comparison, DecisionDiff
from creditfold.projections.generations.catalog import Generation
from creditfold.projections.proof.differences import Difference


def of_generation(row: Generation) -> dict[str, Any]:
    """A generation, with whether it is for looking at only."""
    return _plain({**row._asdict(), "log": row.log._asdict(), "is_partial": row.is_partial})


def of_switch(done: Switch) -> dict[str, Any]:
    """An activation."""
    return _plain(done._asdict())


def of_comparison(verdict: Comparison) -> dict[str, Any]:
    """A comparison of two generations, each account with its first difference."""
    accounts = [
        {"account": row.account, "records": row.records, "first": _of_difference(row.first)} for row in verdict.accounts
    ]
    return _plain({**verdict._asdict(), "accounts": accounts})


def of_diff(changes: DecisionDiff) -> dict[str, Any]:
    """What other rules would change."""
    return _plain({**changes._asdict(), "changes": [_of_difference(change) for change in changes.changes]})


def _of_difference(difference: Difference) -> dict[str, Any]:
    position = Position(difference.log_partition, difference.log_offset)
    return {"position": position, "left": difference.left, "right": difference.right}


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = as_json(value)
    return found
