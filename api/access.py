"""Who may do what: callers and their limits. Finds the caller of a request, and refuses what it may not do.

Refuses to know what a route does. A key of the database is kept in memory for a moment, so that not every request asks
for it; where PostgreSQL is away, those that are known stay good.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Request

from creditfold.api.limits import Rate
from creditfold.api.problems import ProblemError
from creditfold.producers.models.commands import Batch, Command, Transfer
from creditfold.projections.access.keys import Key

#: Seconds for which a key is not asked for again. One that was revoked opens for no longer.
FRESH_S = 2.0
#: Seconds for which a known key stays good where PostgreSQL is away.
KEPT_S = 3_600.0
#: Seconds that the answer is waited for where the key is known.
PATIENCE_S = 1.0
#: Keys that are kept.
MOST_KEPT = 10_000


class Caller(NamedTuple):
    """Who makes a request, and what it may do.

    Fields:
        name: of the key, or `jwt:` and the subject of a token. It becomes the `source` of each command.
        scopes: what it may do.
        account_prefix: begins every account that it may touch.
        assets: those that it may name; none given: any.
        most_amount: the largest amount (or credit limit) of a command, in the asset's smallest unit; None: any.
        expires_at: when what it calls with ends; None: never.
        rate: how many requests it may send; None: any number.
    """

    name: str
    scopes: frozenset[str]
    account_prefix: str = ""
    assets: Collection[str] = ()
    most_amount: int | None = None
    expires_at: datetime | None = None
    rate: Rate | None = None

    @property
    def rights(self) -> "Caller":
        """What it may do, without until when: a key that is rotated ends sooner, and goes on until then."""
        return self._replace(expires_at=None)

    def has(self, scope: str) -> bool:
        """Whether the caller has a scope; of one that ends in `*`, any that begins so."""
        begins = scope.removesuffix("*")
        return scope in self.scopes or (begins != scope and any(one.startswith(begins) for one in self.scopes))

    def refuse_scope(self, scope: str) -> None:
        """Raise ProblemError unless the caller has a scope, as `has` says it."""
        if not self.has(scope):
            raise ProblemError(
                403,
                "scope_missing",
                f"The key {self.name} hasn't the scope {scope}.",
                "Use a key that has it, or have one made: creditfold keys create --scope ...",
            )

    def refuse_account(self, account: str) -> None:
        """Raise ProblemError unless the caller may touch an account."""
        if not account.startswith(self.account_prefix):
            raise ProblemError(
                403,
                "account_out_of_reach",
                f"The key {self.name} may touch accounts that begin with {self.account_prefix!r} only.",
                "Use a key whose prefix the account has.",
            )

    def refuse_prefix(self) -> None:
        """Raise ProblemError for a caller that may touch some accounts only, where an answer is about all of them."""
        if self.account_prefix:
            raise ProblemError(
                403,
                "account_out_of_reach",
                f"The key {self.name} may touch accounts that begin with {self.account_prefix!r} only.",
                "Use a key without a prefix: the answer is about all accounts.",
            )

    def refuse_beyond(self, key: Key, expires_at: datetime | None, rate: Rate | None) -> None:
        """Raise ProblemError for a key that may do more than the caller, or for longer: nobody gives what they lack.

        Args:
            key: as it is to be.
            expires_at: when its text ends.
            rate: how many requests it may send, by itself or by the settings.
        """
        lacking = [scope for scope in key.scopes if not self.may_give(scope)]
        beyond = [
            ("scopes", bool(lacking)),
            ("account_prefix", not key.account_prefix.startswith(self.account_prefix)),
            ("assets", bool(self.assets) and not (key.assets and set(key.assets) <= set(self.assets))),
            ("most_amount", _is_beyond(key.most_amount, self.most_amount)),
            ("expires_at", _is_beyond(expires_at, self.expires_at)),
            ("rate", _is_beyond(rate and rate.per_s, self.rate and self.rate.per_s)),
            ("burst", _is_beyond(rate and rate.burst, self.rate and self.rate.burst)),
        ]
        found = [name for name, is_beyond in beyond if is_beyond]
        if found:
            said = f" It hasn't {', '.join(scope[:60] for scope in lacking[:20])}." if lacking else ""
            raise ProblemError(
                403,
                "beyond_own_reach",
                f"The key {self.name} can't give more than it has: {', '.join(found)}.{said}",
                "Give the same or less, or use a key that has it: creditfold keys create makes one.",
            )

    def may_give(self, scope: str) -> bool:
        """Whether a scope opens nothing that the caller's own don't: what is done by hand, services may do too."""
        return scope in self.scopes or scope.replace("manual:", "append:", 1) in self.scopes

    def refuse_command(self, command: Command, *, by_hand: bool = False) -> None:
        """Raise ProblemError unless the caller may append a command: each step, and to each account.

        Args:
            command: as it is to be appended.
            by_hand: whether somebody says why it is; then a scope `manual:<kind>` opens it too.
        """
        self.refuse_account(command.account)
        if isinstance(command, Transfer):
            self.refuse_account(command.to)
        for one in (command, *(command.steps if isinstance(command, Batch) else ())):
            self._refuse_kind(one.type, by_hand=by_hand)
            self._refuse_asset(getattr(one, "asset", None))
            self._refuse_amount(one)

    def _refuse_kind(self, kind: str, *, by_hand: bool) -> None:
        if f"manual:{kind}" not in self.scopes or f"append:{kind}" in self.scopes:
            self.refuse_scope(f"append:{kind}")
        elif not by_hand:
            raise ProblemError(
                400,
                "reason_missing",
                f"The key {self.name} appends commands of the kind {kind} by hand only, each with a reason.",
                "Say why in the header Creditfold-Why, for the audit.",
            )

    def _refuse_asset(self, asset: str | None) -> None:
        if self.assets and asset is not None and asset not in self.assets:
            raise ProblemError(
                403,
                "asset_out_of_reach",
                f"The key {self.name} may not use the asset {asset!r}.",
                f"It may use {', '.join(self.assets)}.",
            )

    def _refuse_amount(self, command: Any) -> None:
        if self.most_amount is None:
            return
        for amount in (getattr(command, name) for name in ("amount", "limit") if hasattr(command, name)):
            if amount is None:
                raise ProblemError(
                    403,
                    "amount_over_limit",
                    f"The key {self.name} may append amounts up to {self.most_amount:,}, and the {command.type} names "
                    "none, which is all that there is.",
                    "Say the amount, or use a key without a limit.",
                )
            if amount > self.most_amount:
                raise ProblemError(
                    403,
                    "amount_over_limit",
                    f"The key {self.name} may append amounts up to {self.most_amount:,}.",
                    "Use a key with a larger limit.",
                )


def caller_of(key: Key, rate: Rate | None) -> Caller:
    """The caller that a key stands for, with the rate that is in force for it."""
    limits = (key.account_prefix, tuple(key.assets), key.most_amount, key.expires_at, rate)
    return Caller(key.name, frozenset(key.scopes), *limits)


def _is_beyond(given: Any, own: Any) -> bool:
    """Whether a bound is looser than one's own; None is no bound."""
    return own is not None and (given is None or given > own)


class _Kept(NamedTuple):
    key: Key | None
    at: float


class KeyRing:
    """Keys by their texts, asked for once in FRESH_S seconds.

    Args:
        find: asks PostgreSQL for the key of a text; raises where it is away.
    """

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        # By themselves: texts that open nothing come in any number, and mustn't have good ones let go.
        self._unknown: OrderedDict[str, _Kept] = OrderedDict()
        # Those that are asked for now: each once, however many requests come with it.
        self._asked: dict[str, asyncio.Task[_Kept]] = {}
        self._is_away = False
        #: When keys were used last, by their ids, for the database to be written now and then.
        self.used: dict[str, datetime] = {}

    def known(self, text: str) -> Key | None:
        """The key of a text that isn't to be asked for now; None where `find` finds out."""
        kept = self._kept.get(text)
        if kept is None or time.monotonic() - kept.at > FRESH_S:
            return None
        return self._opening(kept.key)

    async def find(self, text: str) -> Key | None:
        """The key of a text; None where it opens nothing. Raises what asking for it raises, if it isn't known."""
        kept, now = self._kept.get(text) or self._unknown.get(text), time.monotonic()
        if kept is None or now - kept.at > FRESH_S:
            kept = await self._refreshed(text, kept, now)
        return self._opening(kept.key)

    def _opening(self, key: Key | None) -> Key | None:
        moment = datetime.now(UTC)
        if key is None or (key.expires_at is not None and key.expires_at <= moment):
            return None
        self.used[key.id] = moment
        return key

    async def _refreshed(self, text: str, kept: _Kept | None, now: float) -> _Kept:
        """The key as PostgreSQL has it; as it is kept, if it was good and PostgreSQL is away or takes its time."""
        asked = self._asked.get(text)
        if asked is None:
            asked = self._asked[text] = asyncio.create_task(self._ask(text))
            asked.add_done_callback(lambda task: self._end_ask(text, task))
        if kept is None or kept.key is None or now - kept.at > KEPT_S:
            # Shielded: it is not this request's alone, and its client may leave.
            return await asyncio.shield(asked)
        # Where it is known to be away, nobody waits for it: the answer is for the next.
        await asyncio.wait((asked,), timeout=0 if self._is_away else PATIENCE_S)
        if not asked.done():
            self._is_away = True
        return kept if not asked.done() or asked.exception() is not None else asked.result()

    def _end_ask(self, text: str, asked: asyncio.Task[_Kept]) -> None:
        del self._asked[text]
        # Looked at, though nobody may have waited for it.
        if not asked.cancelled():
            asked.exception()

    async def _ask(self, text: str) -> _Kept:
        now = time.monotonic()
        try:
            kept = _Kept(await self._find(text), now)
        except BaseException:
            self._is_away = True
            raise
        self._is_away = False
        into, other = (self._unknown, self._kept) if kept.key is None else (self._kept, self._unknown)
        other.pop(text, None)
        into[text] = kept
        into.move_to_end(text)
        while len(into) > MOST_KEPT:
            into.popitem(last=False)
        return kept


async def _caller(request: Request) -> Caller:
    """The caller of a request. Raises ProblemError where there is none."""
    return admitted(request, await request.app.state.service.authenticate(request))


def admitted(request: Request, found: Caller) -> Caller:
    """A caller who has made a request, which takes a token of its rate. Raises ProblemError where there is none."""
    service = request.app.state.service
    request.state.caller = found
    if found.rate is not None:
        with service.metrics.rate_limited.count_exceptions(ProblemError):
            request.state.headers = service.limits.take(found.name, found.rate)
    return found


AnyCaller = Annotated[Caller, Depends(_caller)]


def needs(scope: str, *others: str, everywhere: bool = False) -> Any:
    """The dependency of a route that a scope opens; the route's table of scopes is read from it.

    A scope that ends in `*` is any that begins so, where the route looks at each command by itself; so it does where
    there are others that let a caller in. `everywhere`: the route is about all accounts, and a caller that is limited
    to some is refused.
    """

    async def check(caller: AnyCaller) -> Caller:
        if not any(map(caller.has, others)):
            caller.refuse_scope(scope)
        if everywhere:
            caller.refuse_prefix()
        return caller

    check.scope = scope  # type: ignore[attr-defined]
    return Depends(check)
