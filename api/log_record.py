"""The route of one record of the log: as it is there, and what it says. Decides nothing about it."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Path, Request
from fastapi.responses import Response
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.letters import BytesAnswer, HeaderAnswer, bytes_of, fields_of, headers_of, is_personal_to
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.common.instants import EPOCH, MAX_INSTANT
from creditfold.common.position import MAX_OFFSET, Position
from creditfold.common.settings import Settings
from creditfold.log.admin import KafkaAdmin
from creditfold.log.lookup import NoSuchRecordError, record_at
from creditfold.log.record import LogRecord
from creditfold.schemas.wire import HEADER, MAGIC, DecodeError, decode

router = Routes(tags=["operation"])

Partition = Annotated[int, Path(description="Of the log.", ge=0, le=2**31 - 1)]
Offset = Annotated[int, Path(description="In the partition.", ge=0, le=MAX_OFFSET)]


class LogRecordAnswer(Answer):
    """A record of the log, as anybody may have written it."""

    position: str
    appended_at: datetime | None = Field(description="By the log's clock.")
    key: BytesAnswer | None = Field(description="The account, of a command.")
    value: BytesAnswer | None = Field(description="None too without the scope read:personal.")
    headers: list[HeaderAnswer]
    schema_id: int | None = Field(description="Of the Avro schema that it says it has; GET /schemas/{id} shows that.")
    record: str | None = Field(description="The name of what it is, such as Grant; None where it can't be read.")
    fields: dict[str, Any] | None = Field(
        description="What it says. source, reason, metadata and note are None without the scope read:personal."
    )
    fault: str | None = Field(description="Why it can't be read.")


@router.get(
    "/v1/log/{partition}/{offset}", operation_id="log_record", response_model=LogRecordAnswer, responses=responses(404)
)
async def log_record(
    request: Request,
    caller: Annotated[Caller, needs("operate:dead-letters", everywhere=True)],
    partition: Partition,
    offset: Offset,
) -> Response:
    """One record of the log, decoded, with its key and its headers. It needn't be folded yet, nor be a command."""
    service, position = service_of(request), Position(partition, offset)
    found = await service.operate(lambda: record_of(service.settings, position, caller, service.admin))
    return answers.render(found)


def record_of(settings: Settings, position: Position, caller: Caller, admin: KafkaAdmin) -> LogRecordAnswer:
    """The record at a position, read from Kafka. Raises ProblemError where there is none, KafkaUnavailableError."""
    try:
        found = record_at(settings, position, admin)
    except NoSuchRecordError as error:
        raise ProblemError(404, "record_unknown", error.message, error.remedy) from None
    return _answer_of(position, found, is_personal=is_personal_to(caller))


def _answer_of(position: Position, found: LogRecord, *, is_personal: bool) -> LogRecordAnswer:
    record = fields = fault = None
    try:
        decoded = decode(found.value)
        record, fields = decoded.record, fields_of(decoded.fields, is_personal=is_personal)
    except DecodeError as error:
        fault = str(error)
    return LogRecordAnswer.model_construct(
        position=str(position),
        appended_at=_moment_of(found.timestamp),
        key=bytes_of(found.key),
        value=bytes_of(found.value) if is_personal else None,
        headers=headers_of(found.headers, is_personal=is_personal),
        schema_id=_schema_id(found.value),
        record=record,
        fields=fields,
        fault=fault,
    )


def _moment_of(timestamp: int) -> datetime | None:
    # A topic whose clock is the producers' has any number there.
    return EPOCH + timedelta(milliseconds=timestamp) if 0 <= timestamp <= MAX_INSTANT else None


def _schema_id(value: bytes | None) -> int | None:
    if value is None or len(value) < HEADER.size:
        return None
    magic, schema_id = HEADER.unpack_from(value)
    return int(schema_id) if magic == MAGIC else None
