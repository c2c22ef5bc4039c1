"""Append commands to the log, one at a time or by the file, and wait for outcomes. Knows neither rules nor PostgreSQL.

    from creditfold.common.settings import load_settings
    from creditfold.producers import CommandProducer, Spend
    from creditfold.projections.queries import ProjectedOutcomes

    settings = load_settings()
    outcomes = ProjectedOutcomes(settings.dsn)
    with CommandProducer(settings.kafka_client, settings.commands_topic, outcomes=outcomes) as producer:
        outcome = producer.append_and_wait(Spend(command_id="order-7", account="ada", asset="credits", amount=10))
    print(outcome.is_accepted, outcome.kind, outcome.position)

Without `outcomes`, which needs a client of PostgreSQL, append() returns a command's position. docs/producing.md has the
rest: asyncio, files, errors, and what a failed append means.
"""

from creditfold.common.trace_context import trace_context
from creditfold.producers.async_client import AsyncCommandProducer
from creditfold.producers.client import CommandProducer
from creditfold.producers.deliveries import Outcome
from creditfold.producers.import_file import ImportProgress, ImportReport, import_file
from creditfold.producers.models.commands import (
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
from creditfold.producers.models.errors import (
    AppendError,
    BrokerUnavailableError,
    DeliveryFailedError,
    DoubtfulCommandError,
    ForkedProducerError,
    ImportFileError,
    ImportStateError,
    ImportStoppedError,
    InvalidCommandError,
    NotAllowedError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    ProducerBrokenError,
    ProducerClosedError,
    ProducerSettingError,
    QueueFullError,
    RecordTooLargeError,
    UndeliveredError,
    UnknownTopicError,
)
from creditfold.producers.models.steps import (
    CaptureStep,
    GrantStep,
    HoldStep,
    RefundStep,
    ReleaseStep,
    SpendStep,
    Step,
    VoidGrantStep,
)
from creditfold.producers.outcomes import OutcomeLookup
from creditfold.schemas.outcome import CommandOutcome, Decision, OutcomeKind

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
    "CommandOutcome",
    "CommandProducer",
    "CreateSchedule",
    "Decision",
    "DeliveryFailedError",
    "DoubtfulCommandError",
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
    "OutcomeKind",
    "OutcomeLookup",
    "OutcomeTimeoutError",
    "OutcomeUnknownError",
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
    "trace_context",
]
