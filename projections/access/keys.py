"""API keys: made, found by their text, rotated and revoked, each change with its line in the audit.

A key's text is `cfk_<id>_<secret><checksum>`: the prefix is there for scanners that search for leaked secrets, the
checksum has a typing error noticed without asking the database. Only the digest of the secret is stored.
"""

import hashlib
import secrets
import string
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from psycopg import Connection
from psycopg.errors import UniqueViolation

from creditfold.common.errors import CreditfoldError
from creditfold.ledger import limits
from creditfold.ledger.limits import is_id, is_note
from creditfold.projections.access.audit import Actor, record_action
from creditfold.projections.access.scopes import SCOPES, refuse_unknown
from creditfold.projections.connections import rows_of

PREFIX = "cfk"
_DIGITS = string.digits + string.ascii_letters
_ID_LENGTH = 12
# 256 bits, and 32 of the checksum, in base 62.
_SECRET_LENGTH = 43
_CHECKSUM_LENGTH = 6
#: The key that a new ledger begins with.
FIRST_NAME = "first"
#: Begins the name of a caller with a token of an identity provider, and no key's.
SUBJECT = "jwt:"
#: The lowest rate of a key, in requests a second, and the highest, which is the largest burst too.
SLOWEST, MOST_REQUESTS = 0.001, 1_000_000
#: A rotated key's old secret stays good for this long, unless another time is given.
OVERLAP = timedelta(days=1)


class UnknownKeyError(CreditfoldError):
    """There is no such key."""

    exit_code = 2


class KeyNameTakenError(CreditfoldError):
    """A key of that name is there already."""

    exit_code = 2


class InvalidKeyError(CreditfoldError):
    """What a key is to be can't be."""

    exit_code = 2


class KeyRotatedError(CreditfoldError):
    """A key that has two secrets already can't get a third one."""


class Key(NamedTuple):
    """What a key may do. Scopes are those of `scopes.py`, an empty limit limits nothing.

    `account_prefix` begins every account that the key may touch, `assets` are those that it may name, and
    `most_amount` is the largest amount of one command, in the asset's smallest unit. `rate` is in requests a second,
    `burst` how many may come at once; None: as the settings say.
    """

    id: str
    name: str
    scopes: Sequence[str]
    account_prefix: str = ""
    assets: Sequence[str] = ()
    most_amount: int | None = None
    rate: float | None = None
    burst: int | None = None
    made_at: datetime | None = None
    used_at: datetime | None = None
    revoked_at: datetime | None = None
    expires_at: datetime | None = None


class NewKey(NamedTuple):
    """A key and its text, which is shown once and stored nowhere, nor shown by `repr`."""

    key: Key
    text: str

    def __repr__(self) -> str:
        return f"NewKey({self.key.id}, {self.key.name})"


def create_key(
    connection: Connection[Any],
    name: str,
    scopes: Sequence[str],
    *,
    by: Actor,
    account_prefix: str = "",
    assets: Sequence[str] = (),
    most_amount: int | None = None,
    rate: float | None = None,
    burst: int | None = None,
    expires_at: datetime | None = None,
) -> NewKey:
    """Make a key.

    Raises:
        KeyNameTakenError: one of that name is there, revoked perhaps.
        UnknownScopeError: there is no such scope.
        InvalidKeyError: its name, a limit or its end can't be.
        ReasonMissingError: nobody says why.
    """
    key_id = _drawn(_ID_LENGTH)
    given = [scope for scope in SCOPES if scope in scopes]
    wanted = Key(key_id, name, given, account_prefix, list(assets), most_amount, rate, burst)
    _refuse_impossible(wanted, scopes)
    with connection.transaction():
        try:
            with connection.transaction():
                connection.execute(
                    """INSERT INTO ledger_access.keys
                           (id, name, scopes, account_prefix, assets, most_amount, rate, burst)
                       VALUES (%s, %s, %s, %s, %s, %s, %s, %s)""",
                    wanted[:8],
                )
        except UniqueViolation:
            raise KeyNameTakenError(
                f"There is a key named {name} already.", "Choose another name, or rotate that key."
            ) from None
        text = _add_secret(connection, key_id, expires_at)
        key = key_of(connection, key_id)
        _record(connection, by, "keys.create", None, key)
    return NewKey(key, text)


def create_first_key(connection: Connection[Any], by: Actor) -> NewKey | None:
    """Make the key that a new ledger begins with: it has every scope and no end. None where any key is or was there."""
    there_is_one = "SELECT EXISTS (SELECT FROM ledger_access.keys)"
    if connection.execute(there_is_one).fetchone() == (True,):
        return None
    with connection.transaction():
        # Of two who look at once, one waits here, and then sees the other's.
        connection.execute("LOCK TABLE ledger_access.keys IN SHARE ROW EXCLUSIVE MODE")
        if connection.execute(there_is_one).fetchone() == (True,):
            return None
        return create_key(connection, FIRST_NAME, list(SCOPES), by=by)


def rotate_key(
    connection: Connection[Any],
    key_id: str,
    *,
    by: Actor,
    overlap: timedelta = OVERLAP,
    expires_at: datetime | None = None,
) -> NewKey:
    """Give a key a new secret; the old one stays good for the overlap, or until its own end where that is sooner.

    Args:
        connection: to the database.
        key_id: of the key.
        by: who does it, and why.
        overlap: for how long the old secret stays good.
        expires_at: when the new secret ends; as the old one did if not given.

    Raises:
        UnknownKeyError: there is none of that id, or it is revoked.
        KeyRotatedError: two secrets are good already.
        InvalidKeyError: the new secret would have ended already.
        ReasonMissingError: nobody says why.
    """
    with connection.transaction():
        connection.execute("SELECT FROM ledger_access.keys WHERE id = %s FOR UPDATE", (key_id,))
        key = key_of(connection, key_id)
        if key.revoked_at is not None:
            raise UnknownKeyError(f"The key {key.name} is revoked.", "Create another one.")
        good = connection.execute(
            """SELECT count(*) FROM ledger_access.secrets
               WHERE key_id = %s AND (expires_at IS NULL OR expires_at > clock_timestamp())""",
            (key_id,),
        ).fetchone()
        if good is not None and good[0] > 1:
            raise KeyRotatedError(
                f"The key {key.name} is being rotated already: two secrets are good.",
                "Wait until the old one has ended, or revoke the key.",
            )
        connection.execute(
            """UPDATE ledger_access.secrets SET expires_at = clock_timestamp() + %s
               WHERE key_id = %s AND (expires_at IS NULL OR expires_at > clock_timestamp() + %s)""",
            (overlap, key_id, overlap),
        )
        text = _add_secret(connection, key_id, expires_at or key.expires_at)
        rotated = key_of(connection, key_id)
        _record(connection, by, "keys.rotate", key, rotated)
    return NewKey(rotated, text)


def revoke_key(connection: Connection[Any], key_id: str, *, by: Actor) -> Key:
    """Have a key open nothing any more; its row stays for the audit.

    Raises:
        UnknownKeyError: there is none of that id.
        ReasonMissingError: nobody says why.
    """
    with connection.transaction():
        connection.execute("SELECT FROM ledger_access.keys WHERE id = %s FOR UPDATE", (key_id,))
        key = key_of(connection, key_id)
        connection.execute(
            "UPDATE ledger_access.keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE id = %s",
            (key_id,),
        )
        revoked = key_of(connection, key_id)
        _record(connection, by, "keys.revoke", key, revoked)
    return revoked


def _record(connection: Connection[Any], by: Actor, action: str, before: Key | None, after: Key) -> None:
    record_action(
        connection,
        **by._asdict(),
        action=action,
        target=after.id,
        before=None if before is None else as_fields(before),
        after=as_fields(after),
    )


def as_fields(key: Key) -> dict[str, Any]:
    """A key as JSON has it: what it may do and until when, nothing of its secrets, and no instant of use."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else list(value) if isinstance(value, tuple) else value
        for name, value in key._asdict().items()
        if name != "used_at"
    }


def _refuse_impossible(key: Key, scopes: Sequence[str]) -> None:
    refuse_unknown(scopes)
    if not scopes:
        raise InvalidKeyError("The key would open nothing.", f"Give it scopes: {', '.join(SCOPES)}.")
    if not is_id(key.name, limits.MAX_SOURCE):
        raise InvalidKeyError(
            f"{key.name[:60]!r} is no name for a key.",
            f"A name has 1 to {limits.MAX_SOURCE} characters, no control characters, no spaces at its ends.",
        )
    if key.name.startswith(SUBJECT):
        raise InvalidKeyError(
            f"{key.name[:60]!r} would be taken for a token of an identity provider.", "Choose another name."
        )
    if not is_note(key.account_prefix, limits.MAX_ACCOUNT):
        raise InvalidKeyError(
            "No account begins with that prefix.", f"It has at most {limits.MAX_ACCOUNT} characters, as an account has."
        )
    for asset in key.assets:
        if not is_id(asset, limits.MAX_ASSET):
            raise InvalidKeyError(f"{asset[:60]!r} is no asset.", f"An asset has 1 to {limits.MAX_ASSET} characters.")
    if key.most_amount is not None and not 1 <= key.most_amount <= limits.MAX_AMOUNT:
        raise InvalidKeyError(
            f"{key.most_amount:,} is no largest amount.", f"It is a whole number from 1 to {limits.MAX_AMOUNT:,}."
        )
    if key.rate is not None and not SLOWEST <= key.rate <= MOST_REQUESTS:
        raise InvalidKeyError(
            f"{key.rate:g} is no rate.", f"It is in requests a second, from {SLOWEST:g} to {MOST_REQUESTS:,}."
        )
    if key.burst is not None and (key.rate is None or not 1 <= key.burst <= MOST_REQUESTS):
        raise InvalidKeyError(
            f"A burst of {key.burst:,} can't be.", f"It is a whole number from 1 to {MOST_REQUESTS:,}, beside a rate."
        )


def keys(connection: Connection[Any]) -> Sequence[Key]:
    """All keys, revoked ones last, each with the end of its newest secret."""
    return rows_of(connection, Key, _KEYS + " ORDER BY k.revoked_at NULLS FIRST, k.name")


def key_of(connection: Connection[Any], key_id: str) -> Key:
    """The key of an id. Raises UnknownKeyError."""
    found = rows_of(connection, Key, _KEYS + " WHERE k.id = %s", (key_id,))
    if not found:
        raise UnknownKeyError(f"There is no key with the id {key_id[:20]!r}.", "`creditfold keys list` shows all.")
    return found[0]


def key_named(connection: Connection[Any], name: str) -> Key:
    """The key of an id, or else of a name. Raises UnknownKeyError."""
    found = rows_of(connection, Key, _KEYS + " WHERE k.id = %s OR k.name = %s", (name, name))
    if not found:
        raise UnknownKeyError(f"There is no key {name[:60]!r}.", "`creditfold keys list` shows all.")
    return next((key for key in found if key.id == name), found[0])


_KEYS = """
    SELECT k.id, k.name, k.scopes, k.account_prefix, k.assets, k.most_amount, k.rate, k.burst, k.made_at, k.used_at,
           k.revoked_at, s.expires_at
    FROM ledger_access.keys k
    LEFT JOIN LATERAL (
        SELECT expires_at FROM ledger_access.secrets WHERE key_id = k.id ORDER BY made_at DESC LIMIT 1
    ) s ON true"""


def find_key(connection: Connection[Any], text: str) -> Key | None:
    """The key that a text opens, with the end of that secret; None where it opens nothing.

    The secret is compared by its digest, of which an attacker can choose no part, so the time it takes shows nothing.
    """
    if not is_well_formed(text):
        return None
    found = rows_of(
        connection,
        Key,
        """SELECT k.id, k.name, k.scopes, k.account_prefix, k.assets, k.most_amount, k.rate, k.burst, k.made_at,
                  k.used_at, k.revoked_at, s.expires_at
           FROM ledger_access.secrets s JOIN ledger_access.keys k ON k.id = s.key_id
           WHERE s.digest = %s AND k.id = %s AND k.revoked_at IS NULL
                 AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())""",
        (_digest(text), text.split("_")[1]),
    )
    return found[0] if found else None


def record_use(connection: Connection[Any], used: Sequence[tuple[str, datetime]]) -> None:
    """Record when keys were used last, by their ids."""
    connection.execute(
        """UPDATE ledger_access.keys k SET used_at = greatest(k.used_at, u.at)
           FROM unnest(%s::text[], %s::timestamptz[]) AS u (id, at) WHERE k.id = u.id""",
        ([key_id for key_id, _ in used], [at for _, at in used]),
    )


def is_well_formed(text: str) -> bool:
    """Whether a text is that of a key, its checksum included; says nothing of whether there is one."""
    prefix, _, rest = text.partition("_")
    key_id, _, secret = rest.partition("_")
    if prefix != PREFIX or len(key_id) != _ID_LENGTH or len(secret) != _SECRET_LENGTH + _CHECKSUM_LENGTH:
        return False
    return secret[_SECRET_LENGTH:] == _checksum(text[:-_CHECKSUM_LENGTH])


def _add_secret(connection: Connection[Any], key_id: str, expires_at: datetime | None) -> str:
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidKeyError("The key would have ended already.", "Give an end that is ahead.")
    body = f"{PREFIX}_{key_id}_{_drawn(_SECRET_LENGTH)}"
    text = body + _checksum(body)
    connection.execute(
        "INSERT INTO ledger_access.secrets (digest, key_id, expires_at) VALUES (%s, %s, %s)",
        (_digest(text), key_id, expires_at),
    )
    return text


def _drawn(length: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(length))


def _digest(text: str) -> bytes:
    # No slow hash: 256 random bits can't be guessed, and each request computes it.
    return hashlib.sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    while len(digits) < _CHECKSUM_LENGTH:
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    return digits
