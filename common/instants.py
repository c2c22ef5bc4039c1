"""An instant as people and services write it, read into milliseconds since 1970 UTC. Owns which ones are implausible.

Whatever takes commands reads instants by this: the producers' models, files, the command line's options. Knows no field
and no command; the fold takes any number of its own bounds, since what is in the log is decided.

Source: docs/producing.md, "Instants".
"""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)
#: 1973-03-03T09:46:40Z. A smaller number is nearly always seconds, days or a date; no credits are of that time.
MIN_INSTANT: Final = 100_000_000_000
#: 9999-12-31T23:59:59.999Z.
MAX_INSTANT: Final = 253_402_300_799_999

RULE: Final = (
    f"must be an instant: a time in ISO 8601, or milliseconds since 1970 UTC, from {MIN_INSTANT} to {MAX_INSTANT}"
)

#: Where every number is an instant: above 2100-12-31 written as one number of twelve digits, below 1970-01-01 written
#: as one of fourteen. 1976 to 2594, which nearly all instants are in.
PLAIN: Final = (210_012_312_360, 19_700_101_000_000)
_DIGITS = re.compile(r"[0-9]{1,40}", re.ASCII).fullmatch
_DURATION = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII).fullmatch
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# What datetime.fromisoformat reads, but with the separator that ISO 8601 and RFC 3339 know, and no other.
_ISO = re.compile(r"[0-9]{4}-?(?:[0-9]{2}-?[0-9]{2}|W[0-9]{2}(?:-?[1-7])?)(?:[T ][0-9:.,Z+-]+)?", re.ASCII).fullmatch
_WRITTEN_AS_DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S", 17: "%Y%m%d%H%M%S%f"}
#: Units by the number of digits that an instant of our days has in them, as parts of a second.
_UNITS = {10: ("seconds", 1), 16: ("microseconds", 10**6), 19: ("nanoseconds", 10**9)}


class InstantError(ValueError):
    """A value is no instant, or an implausible one. The text says why, and what may have been meant."""


def instant_of(value: object) -> int:
    """Read an instant. Returns milliseconds since 1970 UTC.

    Args:
        value: milliseconds; a text in ISO 8601 (extended or basic, UTC unless it has an offset, a date alone is its
            midnight) or of a number's digits, of which eight are a date; a datetime with a time zone, or a date.

    Raises InstantError for what is none, and for a number that is most likely in another unit.
    """
    # True is an int too, and no instant.
    if isinstance(value, int) and not isinstance(value, bool):
        return _judged(value)
    if isinstance(value, str):
        return _read(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InstantError("it has no time zone")
        return _judged(milliseconds_of(value))
    if isinstance(value, date):
        return _judged(milliseconds_of(datetime(value.year, value.month, value.day, tzinfo=UTC)))
    raise InstantError("it is no whole number and no time")


def milliseconds_of(moment: datetime) -> int:
    """A moment in milliseconds since 1970 UTC."""
    return (moment - EPOCH) // MILLISECOND


def moment_of(text: str) -> datetime:
    """Read a moment for a query, as instant_of() reads a text, but of any year. In UTC.

    Raises InstantError.
    """
    if _DIGITS(text) and len(text) != 8:
        return EPOCH + timedelta(milliseconds=_judged(int(text)))
    return _parsed(text)


def duration_of(text: str) -> int:
    """Read a length of time, a whole number with its unit, as 15m; in milliseconds. Raises InstantError."""
    found = _DURATION(text)
    if found is None:
        raise InstantError(f"{text[:60]!r} is no length of time")
    return int(found[1]) * _UNITS_MS[found[2]]


def iso(instant: int) -> str:
    """An instant of the calendar in ISO 8601 UTC, to the second or the millisecond."""
    moment = EPOCH + timedelta(milliseconds=instant)
    return moment.isoformat(timespec="milliseconds" if instant % 1000 else "seconds").replace("+00:00", "Z")


def _judged(number: int) -> int:
    if MIN_INSTANT <= number <= MAX_INSTANT and not _is_written_as_digits(number):
        return number
    raise InstantError(_what_is_meant(number))


def _is_written_as_digits(number: int) -> bool:
    return not PLAIN[0] <= number < PLAIN[1] and _calendar(str(number)) is not None


def _calendar(digits: str) -> datetime | None:
    """The date, or date and time, of 1970 to 2100 that digits without separators write, if they do."""
    written = _WRITTEN_AS_DIGITS.get(len(digits))
    if written is None or not "1970" <= digits[:4] <= "2100":
        return None
    try:
        return datetime.strptime(digits, written).replace(tzinfo=UTC)
    except ValueError:
        return None


def _what_is_meant(number: int) -> str:
    shown = str(number) if abs(number) < 10**25 else "it"
    if found := _calendar(shown):
        day = found.date().isoformat() if len(shown) == 8 else iso(milliseconds_of(found))
        return f"{shown} is a date? Write it as {day}"
    for digits, (unit, parts) in _UNITS.items():
        if number > 0 and abs(len(shown) - digits) <= (digits == 10) and number * 1000 // parts <= MAX_INSTANT:
            there = number * 1000 // parts
            return f"{shown} is in {unit}? In milliseconds it is {there}, {iso(there)}"
    if 0 < number < MIN_INSTANT:
        return f"{shown} is {iso(number)} in milliseconds; is it in seconds? Write it in ISO 8601"
    if number < MIN_INSTANT:
        return f"{shown} lies before {iso(MIN_INSTANT)}"
    return f"{shown} lies after {iso(MAX_INSTANT)}; is it in microseconds?"


def _read(text: str) -> int:
    if _DIGITS(text) and len(text) != 8:
        return _judged(int(text))
    # Not judged by its digits: it was written with its unit.
    instant = milliseconds_of(_parsed(text))
    if not MIN_INSTANT <= instant <= MAX_INSTANT:
        raise InstantError(f"{text[:60]} lies outside {iso(MIN_INSTANT)} to {iso(MAX_INSTANT)}")
    return instant


def _parsed(text: str) -> datetime:
    if _ISO(text.upper()):
        try:
            moment = datetime.fromisoformat(text.upper())
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise InstantError(f"{text[:60]!r} is no time in ISO 8601")
