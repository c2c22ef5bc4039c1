"""The fields that each command needs, and no more: what tests of the producers add wrong ones to."""

from typing import Any

SUM = {"asset": "credits", "amount": 1}


YEAR_2100 = 4_102_444_800_000


#: The least that each command must say, but for its type, its id and its account.
LEAST: dict[str, dict[str, Any]] = {
    "grant": SUM,
    "spend": SUM,
    "hold": {**SUM, "deadline": YEAR_2100},
    "capture": {"hold": "h-1"},
    "release": {"hold": "h-1"},
    "refund": {"spend": "s-1"},
    "void_grant": {"grant": "g-1"},
    "transfer": {**SUM, "to": "bob"},
    "freeze": {},
    "unfreeze": {},
    "close": {},
    "set_credit_limit": {"asset": "credits", "limit": 0},
    "create_schedule": {**SUM, "period": "months", "first_at": YEAR_2100},
    "cancel_schedule": {"schedule": "p-1"},
    "batch": {"steps": [{"type": "grant", "command_id": "s-1", **SUM}]},
}


def least(type: str, **other: Any) -> dict[str, Any]:
    """A command that says no more than it must."""
    return {"type": type, "command_id": "c-1", "account": "ada", **LEAST[type], **other}


def step(type: str, id: str, **other: Any) -> dict[str, Any]:
    """A step that says no more than it must."""
    return {"type": type, "command_id": id, **LEAST[type], **other}
