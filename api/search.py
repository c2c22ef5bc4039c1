"""The routes of a search across accounts: which there are, and how many.

A caller that is limited to a prefix searches within it. Knows no SQL and no rule; what is asked by an index is the
query's to know.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import Depends, Query, Request
from fastapi.responses import Response
from pydantic import Field

from creditfold.api import answers
from creditfold.api.access import Caller
from creditfold.api.answers import Answer
from creditfold.api.at_least import AtLeast, Reader, reflecting
from creditfold.api.parameters import PAGE, Cursor, Instant, Limit, cursor_of, place_of
from creditfold.api.problems import ProblemError, responses
from creditfold.api.routes import Routes
from creditfold.api.service import Reading, service_of
from creditfold.common.position import Position
from creditfold.common.settings import MOST_SEARCHABLE
from creditfold.projections import queries
from creditfold.projections.queries import AccountCount, AccountFilter, FoundAccount, FoundAccounts

router = Routes(tags=["accounts"])

#: How many accounts there are; followed by `+` where there are more.
COUNT = "Creditfold-Count"

Amount = Annotated[int, Query(ge=0, le=2**62)]
Prefix = Annotated[str | None, Query(description="Begins the accounts.", max_length=128)]
CommandId = Annotated[
    str | None, Query(description="Of a command of theirs that was decided.", min_length=1, max_length=64)
]
State = Annotated[Literal["open", "frozen", "closed"] | None, Query(description="One that is frozen isn't open.")]
SearchedAsset = Annotated[str | None, Query(description="They have or had credits of it.", min_length=1, max_length=64)]
Balance = Annotated[
    Literal["available", "pending", "held", "debt"], Query(description="What `least` and `most` are about.")
]


class FoundBalanceAnswer(Answer):
    """A balance as the account was last settled, in the asset's smallest unit."""

    asset: str
    available: int
    pending: int
    held: int
    debt: int


class FoundCommandAnswer(Answer):
    """A command by which an account was found."""

    command_id: str
    position: str


class FoundAccountAnswer(Answer):
    """An account that was found."""

    account: str
    is_closed: bool
    frozen: str | None = Field(description="spending, all, or nothing.")
    balances: list[FoundBalanceAnswer] = Field(
        description="As last settled: that of `asset`, else the first ten by the assets' names."
    )
    commands: list[FoundCommandAnswer] = Field(
        description="Of a search by command or metadata: the last ten by which it was found."
    )


class AccountsAnswer(Answer):
    """A page of accounts, in the order of the bytes of their names."""

    accounts: list[FoundAccountAnswer]
    next: str | None = Field(description="The cursor of the next page; nothing where this is the last.")


class _Asked(NamedTuple):
    """What is searched by, and who asks."""

    caller: Caller
    wanted: AccountFilter
    at_least: str | None


async def _asked(
    request: Request,
    *,
    caller: Reader,
    account_prefix: Prefix = None,
    command_id: CommandId = None,
    state: State = None,
    asset: SearchedAsset = None,
    balance: Balance = "available",
    least: Annotated[Amount | None, Query(description="The least balance of the asset.")] = None,
    most: Annotated[Amount | None, Query(description="The most balance of the asset.")] = None,
    ends_before: Annotated[
        Instant | None, Query(description="Something of the asset, or of any, ends before this (RFC 3339).")
    ] = None,
    at_least: AtLeast = None,
) -> _Asked:
    asked = (command_id, _metadata(request), state, asset, balance, least, most, ends_before)
    return _Asked(caller, wanted_of(caller, account_prefix, *asked), at_least)


Asked = Annotated[_Asked, Depends(_asked)]


def wanted_of(
    caller: Caller, account_prefix: str | None, command_id: str | None, metadata: Mapping[str, str], *others: Any
) -> AccountFilter:
    """What a caller searches by; without a prefix within its own. Raises ProblemError for what it may not."""
    prefix = caller.account_prefix if account_prefix is None else account_prefix
    caller.refuse_account(prefix)
    if metadata:
        caller.refuse_scope("read:personal")
    if len(metadata) > MOST_SEARCHABLE:
        raise ProblemError(
            400,
            "invalid_request",
            f"Metadata of {len(metadata)} keys are asked for.",
            f"Name {MOST_SEARCHABLE} at most.",
        )
    return AccountFilter(prefix, command_id, metadata, *others)


def _metadata(request: Request) -> Mapping[str, str]:
    """What `metadata[key]=value` asks for."""
    found = {}
    for name, value in request.query_params.items():
        head, bracket, key = name.partition("[")
        if head == "metadata":
            if not (bracket and key.endswith("]") and len(key) > 1):
                raise ProblemError(
                    400, "invalid_request", f"{name[:60]!r} names no key of metadata.", "Write metadata[order_id]=17."
                )
            found[key[:-1]] = value
    return found


#: FastAPI has no parameters whose names have brackets.
_METADATA: dict[str, Any] = {
    "parameters": [
        {
            "name": "metadata",
            "in": "query",
            "style": "deepObject",
            "explode": True,
            "description": "`metadata[key]=value`: a command of theirs says so. The key is one of "
            "CREDITFOLD_SEARCHABLE_METADATA. Needs the scope read:personal.",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": MOST_SEARCHABLE},
        }
    ]
}


@router.get(
    "/v1/accounts",
    operation_id="accounts",
    response_model=AccountsAnswer,
    responses=responses(),
    openapi_extra=_METADATA,
)
async def accounts(request: Request, asked: Asked, cursor: Cursor = None, limit: Limit = PAGE) -> Response:
    """Accounts by a command, metadata, state, balance, or by what ends; all that is asked must be so."""
    after = account_behind(cursor, asked.wanted)
    read = await _read(request, asked, queries.search_accounts, limit, after)
    return answers.render(page_of(read.found, asked.wanted), 200, answers.state_headers(read))


@router.head(
    "/v1/accounts",
    operation_id="count_accounts",
    response_class=Response,
    responses={
        200: {
            "description": "How many there are.",
            "headers": {
                COUNT: {"description": "Up to 10,000; `10000+` where there are more.", "schema": {"type": "string"}}
            },
        },
        **responses(),
    },
    openapi_extra=_METADATA,
)
async def count(request: Request, asked: Asked) -> Response:
    """How many accounts there are of those that GET would find."""
    read = await _read(request, asked, queries.count_accounts)
    found: AccountCount = read.found
    headers = {COUNT: f"{found.number}{'+' if found.has_more else ''}", **answers.state_headers(read)}
    return Response(None, 200, headers)


async def _read(request: Request, asked: _Asked, question: Any, *arguments: Any) -> Reading:
    service = service_of(request)
    positions = [] if asked.at_least is None else [Position.parse(asked.at_least)]
    return await reflecting(service, positions, lambda: service.read(None, question, asked.wanted, *arguments))


def page_of(page: FoundAccounts, wanted: AccountFilter) -> AccountsAnswer:
    """The answer of a page, with the cursor of the next one."""
    following = _cursor_of(page.accounts[-1].account_id, wanted) if page.has_more else None
    return AccountsAnswer.model_construct(accounts=[_answer(account) for account in page.accounts], next=following)


def _answer(account: FoundAccount) -> FoundAccountAnswer:
    return FoundAccountAnswer.model_construct(
        account=account.account_id,
        is_closed=account.is_closed,
        frozen=account.frozen,
        balances=[FoundBalanceAnswer.model_validate(balance) for balance in account.balances],
        commands=[
            FoundCommandAnswer.model_construct(
                command_id=command.command_id, position=str(Position(command.log_partition, command.log_offset))
            )
            for command in account.commands
        ],
    )


def _cursor_of(account: str, wanted: AccountFilter) -> str:
    # In hexadecimal digits: a name may have what no cursor may.
    return cursor_of("accounts", (_digest(wanted), account.encode().hex()))


def account_behind(cursor: str | None, wanted: AccountFilter) -> str | None:
    """The account behind which a page begins. Raises ProblemError for a cursor of another search."""
    if cursor is None:
        return None
    digest, name = place_of("accounts", cursor, ("", ""))
    try:
        account = bytes.fromhex(name).decode()
    except ValueError:
        account = "\0"
    if digest != _digest(wanted) or "\0" in account:
        raise ProblemError(
            400,
            "invalid_cursor",
            "The cursor isn't one of this search.",
            "Take it from `next` of an answer as it is, and ask for the same.",
        )
    return account


def _digest(wanted: AccountFilter) -> str:
    asked = [value.isoformat() if isinstance(value, datetime) else value for value in wanted]
    return blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=8).hexdigest()
