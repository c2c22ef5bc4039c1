"""The routes of the books: where all credits are, and the proof from the journal that none is missing."""

from datetime import datetime
from threading import Lock
from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import Response
from psycopg import Connection
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller, needs
from creditfold.api.answers import Answer
from creditfold.api.parameters import MOST_CURSOR, Asset, Instant, positions_of
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Routes
from creditfold.api.service import service_of
from creditfold.projections import queries
from creditfold.projections.proof.trial_balance import TrialBalance, trial_balance

router = Routes(tags=["statements"])

Reader = Annotated[Caller, needs("read:statement")]
#: Seconds after which to try again where a proof is under way.
PROOF_RETRY_S = 5


class TotalAnswer(Answer):
    """Where all credits of an asset are, and where they came from."""

    asset: str
    credits: int = Field(description="What the accounts have: available, pending and held.")
    debt: int
    issued: int = Field(description="credits - debt, and all that follows here.")
    spent: int
    expired: int
    voided: int
    forfeited: int
    reissued: int
    in_transit: int


class SidesAnswer(TotalAnswer):
    """The two sides of an asset by the journal."""

    available: int
    pending: int
    held: int
    difference: int = Field(description="By how much the sides differ; 0, or something is wrong.")


class FaultAnswer(Answer):
    """Something that doesn't balance."""

    asset: str
    what: str
    account: str | None


class TrialBalanceAnswer(Answer):
    """The sums of the journal up to a position of each partition, and everything that doesn't balance."""

    balances: bool
    is_present: bool = Field(description="Whether balances, lots and totals were compared too.")
    next_offsets: dict[str, int] = Field(description="The first offset that doesn't count, by partition.")
    assets: list[SidesAnswer]
    faults: list[FaultAnswer]


# Held by the thread that reads, which may go on when the request has ended.
_PROOF = Lock()


def proof(connection: Connection[Any], /, **options: Any) -> TrialBalance:
    """A trial balance, one at a time. Raises ProblemError where another is under way."""
    if not _PROOF.acquire(blocking=False):
        raise ProblemError(
            503,
            "proof_under_way",
            "Another trial balance is being drawn up.",
            "Ask again; GET /v1/totals is there at once.",
            headers={"Retry-After": str(PROOF_RETRY_S)},
        )
    try:
        return trial_balance(connection, **options)
    finally:
        _PROOF.release()


def bounds_of(at: str | None, until: datetime | None) -> dict[str, Any]:
    """Up to where the journal counts. Raises ProblemError, InvalidPositionError."""
    if at is not None and until is not None:
        raise ProblemError(
            400, "invalid_request", "A trial balance is up to positions or up to a time.", "Leave out at, or until."
        )
    return {"at": positions_of(at), "until": until}


@router.get("/v1/totals", operation_id="totals", response_model=list[TotalAnswer], responses=responses())
async def totals(request: Request, caller: Reader) -> Response:
    """Where all credits are and where they came from, by asset, as the fold keeps it."""
    caller.refuse_prefix()
    read = await service_of(request).read(None, queries.totals)
    rows = [TotalAnswer.model_validate(row) for row in read.found]
    return answers.render(rows, 200, answers.state_headers(read))


@router.get("/v1/trial-balance", operation_id="trial_balance", response_model=TrialBalanceAnswer, responses=responses())
async def books(
    request: Request,
    caller: Reader,
    *,
    at: Annotated[
        str | None,
        Query(description="The last records that count, `partition:offset`, by comma.", max_length=MOST_CURSOR),
    ] = None,
    until: Annotated[Instant | None, Query(description="The last instant of the log's clock that counts.")] = None,
    asset: Asset = None,
) -> Response:
    """The proof from the journal that what the accounts have is what was issued and didn't go elsewhere.

    Reads the whole journal, so there is one proof at a time. Where that takes too long for a request, `creditfold
    trial-balance` proves the same.
    """
    caller.refuse_prefix()
    read = await service_of(request).read(None, proof, **bounds_of(at, until), asset=asset)
    return answers.render(books_of(read.found), 200, answers.state_headers(read))


def books_of(found: TrialBalance) -> TrialBalanceAnswer:
    """The answer of a proof."""
    return TrialBalanceAnswer.model_construct(
        balances=not found.faults,
        is_present=found.is_present,
        next_offsets={str(partition): offset for partition, offset in found.ends.items()},
        assets=[SidesAnswer.model_validate(row) for row in found.assets],
        faults=[
            FaultAnswer.model_construct(asset=row.asset, what=row.what, account=row.account_id) for row in found.faults
        ],
    )
