"""Webhook endpoints: made, changed, rotated, disabled and removed, each change with its line in the audit.

Owns what an endpoint can be and who may be called by what. What its secrets are, and how requests are signed with them,
is the room of delivery's: here they are bytes, which no `repr` and no line of the audit shows.
"""

import re
import secrets
import string
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, LiteralString, NamedTuple
from urllib.parse import urlsplit

from psycopg import Connection

from creditfold.common.errors import CreditfoldError
from creditfold.ledger import limits
from creditfold.ledger.limits import is_id, is_note
from creditfold.projections.access.audit import Actor, record_action
from creditfold.projections.connections import rows_of

#: Endpoints of a ledger.
MAX_ENDPOINTS = 1_000
MAX_URL = 2_048
MAX_DESCRIPTION = 256
MAX_PREFIXES = 100
#: A rotated secret signs for this long too, unless another time is given.
OVERLAP = timedelta(days=1)
#: The partition of a cursor that counts notices, which are in no partition of the log.
NOTICES = -1

_ID_LENGTH = 16
_DIGITS = string.digits + string.ascii_letters
_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]", re.ASCII).fullmatch


class UnknownEndpointError(CreditfoldError):
    """There is no such endpoint."""

    exit_code = 2


class InvalidEndpointError(CreditfoldError):
    """What an endpoint is to be can't be."""

    exit_code = 2


class EndpointRotatedError(CreditfoldError):
    """An endpoint that has two secrets already can't get a third one."""


class TooManyEndpointsError(CreditfoldError):
    """There are as many endpoints as there can be."""


class Endpoint(NamedTuple):
    """Who is called. No `types`, and no `account_prefixes`, are all.

    `owner` is who made it, and hears where it was disabled by itself; `failing_since` is when a request failed first
    since one didn't.
    """

    id: str
    url: str
    description: str
    owner: str
    types: Sequence[str]
    account_prefixes: Sequence[str]
    state: str = "enabled"
    disabled_why: str = ""
    disabled_at: datetime | None = None
    failing_since: datetime | None = None
    revision: int = 1
    made_at: datetime | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether it is called."""
        return self.state == "enabled"


class SigningKey(NamedTuple):
    """What an endpoint's requests are signed with: a key for HMAC, and the seed of an ed25519 key."""

    secret: bytes
    seed: bytes
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        return f"SigningKey(expires_at={self.expires_at})"


_ENDPOINTS: LiteralString = """
    SELECT id, url, description, owner, types, account_prefixes, state, disabled_why, disabled_at, failing_since,
           revision, made_at FROM ledger_delivery.endpoints
"""


def endpoints(connection: Connection[Any]) -> Sequence[Endpoint]:
    """All endpoints, in the order in which they were made."""
    return rows_of(connection, Endpoint, _ENDPOINTS + " ORDER BY made_at, id")


def endpoint_of(connection: Connection[Any], endpoint_id: str) -> Endpoint:
    """The endpoint of an id. Raises UnknownEndpointError."""
    found = rows_of(connection, Endpoint, _ENDPOINTS + " WHERE id = %s", (endpoint_id,))
    if not found:
        raise UnknownEndpointError(
            f"There is no endpoint with the id {endpoint_id[:20]!r}.", "`creditfold webhooks list` shows all."
        )
    return found[0]


def revisions(connection: Connection[Any]) -> Mapping[str, int]:
    """The revision of each endpoint that is enabled."""
    return dict(
        connection.execute("SELECT id, revision FROM ledger_delivery.endpoints WHERE state = 'enabled'").fetchall()
    )


def signing_keys(connection: Connection[Any], endpoint_id: str) -> Sequence[SigningKey]:
    """The keys that sign an endpoint's requests now, the newest first."""
    return rows_of(
        connection,
        SigningKey,
        """SELECT secret, seed, expires_at FROM ledger_delivery.signing_keys
           WHERE endpoint_id = %s AND (expires_at IS NULL OR expires_at > clock_timestamp()) ORDER BY number DESC""",
        (endpoint_id,),
    )


def create_endpoint(
    connection: Connection[Any],
    url: str,
    key: SigningKey,
    *,
    by: Actor,
    owner: str,
    description: str = "",
    types: Sequence[str] = (),
    account_prefixes: Sequence[str] = (),
    from_start: bool = False,
) -> Endpoint:
    """Make an endpoint, which is called for what is decided from now on.

    Args:
        connection: to the database.
        url: that is called.
        key: that requests are signed with.
        by: who does it, and why.
        owner: who it belongs to.
        description: what it is for, in a few words.
        types: of the events that it is called for; none: all. What types there are is its caller's to know.
        account_prefixes: one of which begins each account that it is called about; none: any.
        from_start: whether it is called for all that was ever decided.

    Raises:
        InvalidEndpointError: it can't be.
        TooManyEndpointsError: there are MAX_ENDPOINTS.
        ReasonMissingError: nobody says why.
    """
    wanted = Endpoint(_drawn(), url, description, owner, list(types), list(account_prefixes))
    _refuse_impossible(wanted)
    with connection.transaction():
        # So that two who look at once don't both find room.
        connection.execute("LOCK TABLE ledger_delivery.endpoints IN SHARE ROW EXCLUSIVE MODE")
        if len(endpoints(connection)) >= MAX_ENDPOINTS:
            raise TooManyEndpointsError(
                f"There are {MAX_ENDPOINTS:,} endpoints, which is the most.", "Delete one that nobody needs."
            )
        connection.execute(
            """INSERT INTO ledger_delivery.endpoints (id, url, description, owner, types, account_prefixes)
               VALUES (%s, %s, %s, %s, %s, %s)""",
            wanted[:6],
        )
        _add_key(connection, wanted.id, key)
        connection.execute(_BEGIN, {"id": wanted.id, "from_start": from_start, "notices": NOTICES})
        made = endpoint_of(connection, wanted.id)
        _record(connection, by, "webhooks.create", None, made)
    return made


# Where it begins: behind all that is folded, and behind all notices.
_BEGIN: LiteralString = """
    INSERT INTO ledger_delivery.cursors (endpoint_id, log_partition, topic_id, log_offset)
    SELECT %(id)s, log_partition, topic_id, CASE WHEN %(from_start)s THEN 0 ELSE next_offset END FROM ledger.progress
    UNION ALL
    SELECT %(id)s, %(notices)s, '', coalesce(max(number), 0) FROM ledger_delivery.notices
"""


def change_endpoint(connection: Connection[Any], endpoint_id: str, *, by: Actor, **changes: Any) -> Endpoint:
    """Change an endpoint's url, description, types or account_prefixes.

    Raises:
        UnknownEndpointError: there is none of that id.
        InvalidEndpointError: what it is to be can't be.
        ReasonMissingError: nobody says why.
    """
    with connection.transaction():
        before = _locked(connection, endpoint_id)
        wanted = before._replace(**{name: value for name, value in changes.items() if value is not None})
        _refuse_impossible(wanted)
        connection.execute(
            """UPDATE ledger_delivery.endpoints SET url = %s, description = %s, types = %s, account_prefixes = %s,
                   revision = revision + 1 WHERE id = %s""",
            (wanted.url, wanted.description, list(wanted.types), list(wanted.account_prefixes), endpoint_id),
        )
        after = endpoint_of(connection, endpoint_id)
        _record(connection, by, "webhooks.change", before, after)
    return after


def rotate_endpoint(
    connection: Connection[Any], endpoint_id: str, key: SigningKey, *, by: Actor, overlap: timedelta = OVERLAP
) -> Endpoint:
    """Sign an endpoint's requests with a new key; for the overlap with the old one too.

    Raises:
        UnknownEndpointError: there is none of that id.
        EndpointRotatedError: two keys sign already.
        ReasonMissingError: nobody says why.
    """
    with connection.transaction():
        before = _locked(connection, endpoint_id)
        if len(signing_keys(connection, endpoint_id)) > 1:
            raise EndpointRotatedError(
                f"The secret of {before.id} is being rotated already: two sign.",
                "Wait until the old one has ended, or delete the endpoint.",
            )
        _forget_ended(connection, endpoint_id)
        connection.execute(
            "UPDATE ledger_delivery.signing_keys SET expires_at = clock_timestamp() + %s WHERE endpoint_id = %s",
            (overlap, endpoint_id),
        )
        _forget_ended(connection, endpoint_id)
        _add_key(connection, endpoint_id, key)
        _touch(connection, endpoint_id)
        _record(connection, by, "webhooks.rotate", before, before)
    return before


def disable_endpoint(connection: Connection[Any], endpoint_id: str, *, by: Actor) -> Endpoint:
    """Call an endpoint no more. What is for it waits.

    Raises:
        UnknownEndpointError: there is none of that id.
        ReasonMissingError: nobody says why.
    """
    with connection.transaction():
        before = _locked(connection, endpoint_id)
        connection.execute(
            """UPDATE ledger_delivery.endpoints SET state = 'disabled', disabled_why = %s, revision = revision + 1,
                   disabled_at = coalesce(disabled_at, clock_timestamp()) WHERE id = %s""",
            (before.disabled_why or "by hand", endpoint_id),
        )
        after = endpoint_of(connection, endpoint_id)
        _record(connection, by, "webhooks.disable", before, after)
    return after


def enable_endpoint(connection: Connection[Any], endpoint_id: str, *, by: Actor, from_now: bool = False) -> Endpoint:
    """Call an endpoint again, for what waited too.

    Args:
        connection: to the database.
        endpoint_id: of the endpoint.
        by: who does it, and why.
        from_now: whether to leave out what came meanwhile; what failed before is tried again all the same.

    Raises:
        UnknownEndpointError: there is none of that id.
        ReasonMissingError: nobody says why.
    """
    with connection.transaction():
        before = _locked(connection, endpoint_id)
        connection.execute(
            """UPDATE ledger_delivery.endpoints SET state = 'enabled', disabled_why = '', disabled_at = NULL,
                   failing_since = NULL, revision = revision + 1 WHERE id = %s""",
            (endpoint_id,),
        )
        connection.execute(
            """UPDATE ledger_delivery.deliveries SET next_at = clock_timestamp(), tries = greatest(tries - 1, 0)
               WHERE endpoint_id = %s AND state = 'pending'""",
            (endpoint_id,),
        )
        if from_now:
            connection.execute("DELETE FROM ledger_delivery.cursors WHERE endpoint_id = %s", (endpoint_id,))
            connection.execute(_BEGIN, {"id": endpoint_id, "from_start": False, "notices": NOTICES})
        after = endpoint_of(connection, endpoint_id)
        _record(connection, by, "webhooks.enable", before, after)
    return after


def delete_endpoint(connection: Connection[Any], endpoint_id: str, *, by: Actor) -> Endpoint:
    """Remove an endpoint with all that waits for it.

    Raises:
        UnknownEndpointError: there is none of that id.
        ReasonMissingError: nobody says why.
    """
    with connection.transaction():
        before = _locked(connection, endpoint_id)
        connection.execute("DELETE FROM ledger_delivery.endpoints WHERE id = %s", (endpoint_id,))
        record_action(
            connection, **by._asdict(), action="webhooks.delete", target=endpoint_id, before=as_fields(before)
        )
    return before


def as_fields(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as JSON has it, nothing of its secrets."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in endpoint._asdict().items()
        if name not in ("revision", "failing_since")
    }


def _locked(connection: Connection[Any], endpoint_id: str) -> Endpoint:
    connection.execute("SELECT FROM ledger_delivery.endpoints WHERE id = %s FOR UPDATE", (endpoint_id,))
    return endpoint_of(connection, endpoint_id)


def _touch(connection: Connection[Any], endpoint_id: str) -> None:
    connection.execute("UPDATE ledger_delivery.endpoints SET revision = revision + 1 WHERE id = %s", (endpoint_id,))


def _add_key(connection: Connection[Any], endpoint_id: str, key: SigningKey) -> None:
    connection.execute(
        "INSERT INTO ledger_delivery.signing_keys (endpoint_id, secret, seed) VALUES (%s, %s, %s)",
        (endpoint_id, key.secret, key.seed),
    )


def _forget_ended(connection: Connection[Any], endpoint_id: str) -> None:
    connection.execute(
        "DELETE FROM ledger_delivery.signing_keys WHERE endpoint_id = %s AND expires_at <= clock_timestamp()",
        (endpoint_id,),
    )


def _record(connection: Connection[Any], by: Actor, action: str, before: Endpoint | None, after: Endpoint) -> None:
    fields = None if before is None else as_fields(before)
    record_action(connection, **by._asdict(), action=action, target=after.id, before=fields, after=as_fields(after))


def _drawn() -> str:
    return "ep_" + "".join(secrets.choice(_DIGITS) for _ in range(_ID_LENGTH))


def _refuse_impossible(wanted: Endpoint) -> None:
    why = url_problem(wanted.url)
    if why:
        raise InvalidEndpointError(f"The URL {why}.", "Write it as https://host/path.")
    if not is_note(wanted.description, MAX_DESCRIPTION):
        raise InvalidEndpointError(
            "The description can't be kept.", f"It has at most {MAX_DESCRIPTION} characters, and no NUL."
        )
    if not is_id(wanted.owner, limits.MAX_SOURCE):
        raise InvalidEndpointError(
            f"{wanted.owner[:60]!r} can be no owner.", f"Name one in 1 to {limits.MAX_SOURCE} characters."
        )
    if len(wanted.account_prefixes) > MAX_PREFIXES:
        raise InvalidEndpointError(
            f"There are more than {MAX_PREFIXES} prefixes.", "Name fewer, or make another endpoint."
        )
    for prefix in wanted.account_prefixes:
        if not prefix or not is_note(prefix, limits.MAX_ACCOUNT):
            raise InvalidEndpointError(
                "No account begins with that prefix.",
                f"It has 1 to {limits.MAX_ACCOUNT} characters, as an account has.",
            )


def url_problem(url: str) -> str:
    """Why a text can't be the URL of an endpoint, in a few words; empty where it can. Asks nobody."""
    if not 0 < len(url) <= MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        return f"isn't 1 to {MAX_URL:,} characters of ASCII without spaces"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "can't be read"
    if parts.scheme not in ("https", "http"):
        return "isn't of https"
    if "@" in parts.netloc or parts.fragment or "\\" in url:
        return "has a user, a fragment or a backslash"
    if port == 0 or _NAME(parts.netloc.removesuffix(f":{port}")) is None:
        return "names no host"
    return ""
