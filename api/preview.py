"""Decides a command on its account as folded, and answers what it would come to; writes nothing."""

import json
from datetime import timedelta
from typing import Any

from fastapi.responses import Response
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller
from creditfold.api.answers import Allocation, Answer
from creditfold.api.problems import ProblemError
from creditfold.api.service import Reading, Service
from creditfold.common.instants import EPOCH
from creditfold.common.position import Position
from creditfold.ledger import Verdict
from creditfold.ledger.facts import Accepted, Rejected
from creditfold.ledger.facts_json import facts_as_json
from creditfold.processors.fold.preview import Preview, preview
from creditfold.producers import encode_command
from creditfold.producers.models.commands import Command
from creditfold.projections.queries.progress import Standing


class PreviewAnswer(Answer):
    """What a command would come to at the folded state."""

    outcome: str = Field(description="accepted, rejected or duplicate.")
    reason: str | None
    account: str
    command_id: str
    at: str = Field(description="Where in the log it would be decided, `partition:offset`: behind all that is folded.")
    balances: dict[str, dict[str, int]] = Field(
        description="By asset, afterwards: all with the scope read:balance, else those that the command is about."
    )
    facts: list[dict[str, Any]]
    allocations: list[Allocation]


async def preview_of(service: Service, command: Command, caller: Caller) -> Response:
    """The answer of a preview. Raises ProblemError for what would be a dead letter.

    Who may not read balances sees those that the command is about, as the answer of the command itself has them.
    """
    record = encode_command(command)

    async def decided(connection: AsyncConnection[TupleRow]) -> tuple[Position, Standing, Response | ProblemError]:
        found = await preview(connection, command.account, record.value)
        return found.at, _standing_of(found), _answer_of(found, command, caller)

    async with service.in_time():
        at, standing, answer = await service.previewers.run(decided)
    last = at._replace(offset=at.offset - 1)
    # The ends are the loop's own, so not in the preview's thread.
    complete_to = service.ends.complete_to(standing, (at.partition,))
    answer.headers.update(answers.state_headers(Reading(None, last, standing.generation, complete_to)))
    if isinstance(answer, ProblemError):
        raise answer
    return answer


def _standing_of(found: Preview) -> Standing:
    """How far the account's partition was folded."""
    clocks = {found.at.partition: EPOCH + timedelta(milliseconds=found.folded_ms)} if found.folded_ms else {}
    return Standing(found.generation, {found.at.partition: found.at.offset}, clocks, found.topic_id)


def _answer_of(found: Preview, command: Command, caller: Caller) -> Response | ProblemError:
    outcome, reason = found.outcome, None
    facts: list[dict[str, Any]] = []
    if isinstance(outcome, Accepted):
        kind, facts = "accepted", json.loads(facts_as_json(outcome.facts))
    elif isinstance(outcome, Rejected):
        kind, reason = "rejected", outcome.reason.value
    elif outcome is Verdict.DUPLICATE:
        kind = "duplicate"
    else:
        return _dead_letter(outcome)
    # A line without an id is what time did before.
    own = {entry.asset for entry in getattr(outcome, "entries", ()) if entry.command_id is not None}
    seen = found.account.holdings if "read:balance" in caller.scopes else own & found.account.holdings.keys()
    balances = {asset: found.account.balance(asset)._asdict() for asset in sorted(seen)}
    answer = PreviewAnswer.model_construct(
        outcome=kind,
        reason=reason,
        account=command.account,
        command_id=command.command_id,
        at=str(found.at),
        balances=balances,
        facts=facts,
        allocations=answers.allocations_of(facts),
    )
    return answers.render(answer)


def _dead_letter(outcome: object) -> ProblemError:
    said = outcome.value if isinstance(outcome, Verdict) else getattr(outcome, "detail", "")
    return ProblemError(409, "would_be_dead_letter", f"The command would be a dead letter: {said}.", "Correct it.")
