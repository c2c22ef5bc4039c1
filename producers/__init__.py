"""Append commands to the log, one at a time or by the file. Knows neither the rules nor PostgreSQL.

    from creditfold.producers import CommandProducer, Grant

    with CommandProducer({"bootstrap.servers": "127.0.0.1:29092"}, "creditfold.commands.v1") as producer:
        position = producer.append(Grant(command_id="g-1", account="ada", asset="credits", amount=100))
    print(position)  # partition:offset, to be named by reads that must see the grant

docs/producing.md tells the rest: asyncio, files, errors, and what a failed append means.
"""

from creditfold.producers.bulk import ImportProgress, ImportReport, import_file
from creditfold.producers.client import AsyncCommandProducer, CommandProducer, Outcome
from creditfold.producers.commands import (
    Batch,
    CancelSchedule,
    Capture,
    Close,
    Command,
    CreateSchedule,
    Encoded,
    Freeze,
    Grant,
    Hold,
    Refund,
    Release,
    SetCreditLimit,
    Spend,
    Transfer,
    Unfreeze,
    VoidGrant,
    encode_command,
    parse_command,
)
from creditfold.producers.errors import (
    AppendError,
    BrokerUnavailableError,
    DeliveryFailedError,
    ForkedProducerError,
    ImportFileError,
    ImportStateError,
    ImportStoppedError,
    InvalidCommandError,
    NotAllowedError,
    ProducerBrokenError,
    ProducerClosedError,
    ProducerSettingError,
    QueueFullError,
    RecordTooLargeError,
    UndeliveredError,
    UnknownTopicError,
)
from creditfold.producers.steps import (
    CaptureStep,
    GrantStep,
    HoldStep,
    RefundStep,
    ReleaseStep,
    SpendStep,
    Step,
    VoidGrantStep,
)

__all__ = [
    "AppendError",
    "AsyncCommandProducer",
    "Batch",
    "BrokerUnavailableError",
    "CancelSchedule",
    "Capture",
    "CaptureStep",
    "Close",
    "Command",
    "CommandProducer",
    "CreateSchedule",
    "DeliveryFailedError",
    "Encoded",
    "ForkedProducerError",
    "Freeze",
    "Grant",
    "GrantStep",
    "Hold",
    "HoldStep",
    "ImportFileError",
    "ImportProgress",
    "ImportReport",
    "ImportStateError",
    "ImportStoppedError",
    "InvalidCommandError",
    "NotAllowedError",
    "Outcome",
    "ProducerBrokenError",
    "ProducerClosedError",
    "ProducerSettingError",
    "QueueFullError",
    "RecordTooLargeError",
    "Refund",
    "RefundStep",
    "Release",
    "ReleaseStep",
    "SetCreditLimit",
    "Spend",
    "SpendStep",
    "Step",
    "Transfer",
    "UndeliveredError",
    "Unfreeze",
    "UnknownTopicError",
    "VoidGrant",
    "VoidGrantStep",
    "encode_command",
    "import_file",
    "parse_command",
]
