"""The client of the HTTP door, for Python services without Kafka or PostgreSQL: append, preview, read and follow.

    from creditfold.client import Client, Spend

    with Client("https://ledger.example", key="cfk_...") as ledger:
        outcome = ledger.append_and_wait(Spend(command_id="order-7", account="ada", asset="credits", amount=10))
    print(outcome.accepted, outcome.reason, outcome.position)

`Client` and `AsyncClient` have the same methods. What they return is in `creditfold.client.answers`. Knows no rule and
nothing of Kafka or PostgreSQL; docs/http.md has the contract.
"""

from creditfold.common.extras import require

require("client")

from creditfold.client.async_client import AsyncClient  # noqa: E402 - What it imports may be missing.
from creditfold.client.client import Client  # noqa: E402
from creditfold.client.commands import (  # noqa: E402
    Batch,
    CancelSchedule,
    Capture,
    CaptureStep,
    Close,
    CreateSchedule,
    Freeze,
    Grant,
    GrantStep,
    Hold,
    HoldStep,
    Refund,
    RefundStep,
    Release,
    ReleaseStep,
    SetCreditLimit,
    Spend,
    SpendStep,
    Transfer,
    Unfreeze,
    VoidGrant,
    VoidGrantStep,
)
from creditfold.client.errors import (  # noqa: E402
    ClientError,
    IdReusedError,
    NotAllowedError,
    OutcomePendingError,
    ProblemError,
    StrangeAnswerError,
    UnavailableError,
    UnreachableError,
)
from creditfold.client.shapes import Command, Rows, Stamp  # noqa: E402
from creditfold.client.streams import Event, Line  # noqa: E402

__all__ = [
    "AsyncClient",
    "Batch",
    "CancelSchedule",
    "Capture",
    "CaptureStep",
    "Client",
    "ClientError",
    "Close",
    "Command",
    "CreateSchedule",
    "Event",
    "Freeze",
    "Grant",
    "GrantStep",
    "Hold",
    "HoldStep",
    "IdReusedError",
    "Line",
    "NotAllowedError",
    "OutcomePendingError",
    "ProblemError",
    "Refund",
    "RefundStep",
    "Release",
    "ReleaseStep",
    "Rows",
    "SetCreditLimit",
    "Spend",
    "SpendStep",
    "Stamp",
    "StrangeAnswerError",
    "Transfer",
    "UnavailableError",
    "Unfreeze",
    "UnreachableError",
    "VoidGrant",
    "VoidGrantStep",
]
