"""The tables of webhooks: what is written at once, by whom, and what becomes of it."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from creditfold.projections.access.audit import Actor
from creditfold.projections.connections import connected
from creditfold.projections.delivery import deliveries as delivery_tables
from creditfold.projections.delivery.checkpoints import (
    Checkpoint,
    Cursor,
    EndpointGoneError,
    Row,
    Tried,
    adopt_log,
    body_of,
    cursors_of,
    save_checkpoint,
    waiting,
)
from creditfold.projections.delivery.deliveries import (
    DeliveryFilter,
    NewDelivery,
    UnknownDeliveryError,
    add_deliveries,
    attempts,
    counts,
    deliveries,
    forget_old,
    resend_one,
    resend_parked,
)
from creditfold.projections.delivery.endpoints import (
    NOTICES,
    Endpoint,
    EndpointRotatedError,
    InvalidEndpointError,
    SigningKey,
    TooManyEndpointsError,
    UnknownEndpointError,
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    disable_endpoint,
    enable_endpoint,
    endpoint_of,
    endpoints,
    rotate_endpoint,
    signing_keys,
)
from creditfold.projections.delivery.leadership import SupersededError, claim, refuse_superseded, release, renew
from creditfold.projections.delivery.reading import ends, has_strangers
from creditfold.projections.delivery.rules import (
    Judged,
    NewAlert,
    RulesChangedError,
    alert_cursors,
    alert_rules,
    create_rule,
    save_judged,
)
from creditfold.projections.queries.windows import Place
from helpers.support import HANG_S, execute, query

pytestmark = pytest.mark.stack

BY = Actor("tests", "here", "a test needs it")
KEY = SigningKey(b"s" * 32, b"k" * 32)
NOW = datetime(2027, 1, 1, tzinfo=UTC)
URL = "https://shop.example/hooks"
#: How many sessions wait for a lock.
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture
def connection(prepared: Settings) -> Iterator[psycopg.Connection[Any]]:
    with connected(prepared.dsn) as opened:
        yield opened


def made(connection: psycopg.Connection[Any], **fields: Any) -> Endpoint:
    return create_endpoint(connection, URL, KEY, by=BY, owner="ann", **fields)


def row(webhook_id: str, state: str = "pending", body: str | None = "{}", **fields: Any) -> Row:
    found = Row(webhook_id, "ada", "lot.granted", "ada", "0:1", "", body, state, 1, NOW, "status 500")
    return found._replace(**fields)


def epoch_of(connection: psycopg.Connection[Any]) -> int:
    epoch = claim(connection, "tests")
    assert epoch is not None
    return epoch


def test_one_process_leads(connection: psycopg.Connection[Any]) -> None:
    """Until it gives the lease up, or doesn't renew it; then it writes nothing any more."""
    first = epoch_of(connection)
    assert claim(connection, "another") is None
    renew(connection, first)
    release(connection, first)
    second = claim(connection, "another")
    assert second == first + 1
    connection.execute("UPDATE ledger_delivery.lease SET renewed_at = clock_timestamp() - interval '1 minute'")
    refuse_superseded(connection, second)
    third = claim(connection, "third")
    assert third == second + 1
    release(connection, second)
    assert claim(connection, "fourth") is None
    endpoint = made(connection)
    for attempt in (
        lambda: renew(connection, second),
        lambda: refuse_superseded(connection, second),
        lambda: save_checkpoint(connection, second, endpoint.id, Checkpoint(rows=[row("m1")])),
    ):
        with pytest.raises(SupersededError):
            attempt()
    assert deliveries(connection, endpoint.id) == []


def test_who_takes_over_begins_behind_the_last_transaction(
    prepared: Settings, connection: psycopg.Connection[Any]
) -> None:
    """One that is under way ends first, and what it wrote is seen; no later one is of the old epoch."""
    first, endpoint, found = epoch_of(connection), made(connection), list[Any]()

    def take_over() -> None:
        with connected(prepared.dsn) as own:
            found.append(claim(own, "another"))
            found.append([one.webhook_id for one in waiting(own, endpoint.id, 0, 10)])

    taking = threading.Thread(target=take_over)
    with connection.transaction():
        save_checkpoint(connection, first, endpoint.id, Checkpoint(rows=[row("m1")]))
        execute(prepared, "UPDATE ledger_delivery.lease SET renewed_at = '-infinity'")
        taking.start()
        assert wait_until(lambda: query(prepared, WAITING) != [(0,)], HANG_S)
    taking.join(HANG_S)
    assert found == [first + 1, ["m1"]]
    with pytest.raises(SupersededError):
        refuse_superseded(connection, first)


def test_a_checkpoint_is_written_at_once_or_not_at_all(connection: psycopg.Connection[Any]) -> None:
    """The cursor with the rows behind it, what was tried, and since when it fails."""
    epoch, endpoint = epoch_of(connection), made(connection)
    cursor = Cursor(0, Place(5, "ada", 3), "ada", 3)
    tried = Tried("m1", "lot.granted", "ada", NOW, 1, 500, 12, "status 500", b"\x00no")
    made_of = Checkpoint([cursor], [row("m1"), row("m2")], [], [tried], failing_since=NOW)
    save_checkpoint(connection, epoch, endpoint.id, made_of)
    assert cursors_of(connection, endpoint.id) == [Cursor(NOTICES, Place(0)), cursor]
    assert [one.webhook_id for one in waiting(connection, endpoint.id, 0, 10)] == ["m1", "m2"]
    assert endpoint_of(connection, endpoint.id).failing_since == NOW
    ((status, answer),) = [(one.status, one.answer) for one in attempts(connection, endpoint.id)]
    assert (status, answer) == (500, b"\x00no")
    # What is there already keeps its tries; what was delivered goes; what was given up waits no more.
    again = Checkpoint(rows=[row("m1", tries=0), row("m2", "parked", None, tries=10)], delivered=["m1"])
    save_checkpoint(connection, epoch, endpoint.id, again)
    ((name, state, tries),) = [(one.webhook_id, one.state, one.tries) for one in deliveries(connection, endpoint.id)]
    assert (name, state, tries) == ("m2", "parked", 10)
    assert waiting(connection, endpoint.id, 0, 10) == []
    assert counts(connection)[endpoint.id][1:3] == (0, 1)
    with pytest.raises(psycopg.DataError):
        save_checkpoint(connection, epoch, endpoint.id, Checkpoint([Cursor(0, Place(9))], [row("m3", lane="a\0")]))
    assert cursors_of(connection, endpoint.id)[1] == cursor


def test_nothing_is_written_of_an_endpoint_that_is_off(connection: psycopg.Connection[Any]) -> None:
    """Disabled or deleted meanwhile; what waited is there when it is on again."""
    epoch, endpoint = epoch_of(connection), made(connection)
    save_checkpoint(connection, epoch, endpoint.id, Checkpoint(rows=[row("m1", next_at=NOW + timedelta(days=900))]))
    disable_endpoint(connection, endpoint.id, by=BY)
    with pytest.raises(EndpointGoneError):
        save_checkpoint(connection, epoch, endpoint.id, Checkpoint(delivered=["m1"]))
    enable_endpoint(connection, endpoint.id, by=BY)
    (one,) = waiting(connection, endpoint.id, 0, 10)
    assert (one.webhook_id, one.tries, one.next_at < datetime.now(UTC) + timedelta(days=1)) == ("m1", 0, True)
    delete_endpoint(connection, endpoint.id, by=BY)
    with pytest.raises(EndpointGoneError):
        save_checkpoint(connection, epoch, endpoint.id, Checkpoint(delivered=["m1"]))
    for change in (disable_endpoint, enable_endpoint, delete_endpoint, change_endpoint):
        with pytest.raises(UnknownEndpointError):
            change(connection, endpoint.id, by=BY)


def test_one_that_is_disabled_by_itself_is_noticed(connection: psycopg.Connection[Any]) -> None:
    """With why, in the transaction that disables it."""
    epoch, endpoint = epoch_of(connection), made(connection)
    save_checkpoint(connection, epoch, endpoint.id, Checkpoint(disabled_why="it answered 410 Gone"))
    found = endpoint_of(connection, endpoint.id)
    assert (found.state, found.disabled_why) == ("disabled", "it answered 410 Gone")
    ((kind, owner, data),) = connection.execute(
        "SELECT type, owner, data::json FROM ledger_delivery.notices"
    ).fetchall()
    assert (kind, owner) == ("endpoint.disabled", "ann")
    assert data == {"endpoint": endpoint.id, "url": URL, "reason": "it answered 410 Gone"}


def test_a_secret_is_rotated_once_at_a_time(connection: psycopg.Connection[Any]) -> None:
    """The old one signs until its end; then it is forgotten, and doesn't come back by the next turn."""
    endpoint = made(connection)
    second, third = SigningKey(b"2" * 32, b"2" * 32), SigningKey(b"3" * 32, b"3" * 32)
    rotate_endpoint(connection, endpoint.id, second, by=BY)
    assert [key.secret for key in signing_keys(connection, endpoint.id)] == [second.secret, KEY.secret]
    with pytest.raises(EndpointRotatedError):
        rotate_endpoint(connection, endpoint.id, third, by=BY)
    connection.execute(
        "UPDATE ledger_delivery.signing_keys SET expires_at = clock_timestamp() WHERE expires_at IS NOT NULL"
    )
    rotate_endpoint(connection, endpoint.id, third, by=BY, overlap=timedelta(0))
    assert [key.secret for key in signing_keys(connection, endpoint.id)] == [third.secret]
    assert connection.execute("SELECT count(*) FROM ledger_delivery.signing_keys").fetchone() == (1,)


def test_what_is_sent_again_comes_last(connection: psycopg.Connection[Any]) -> None:
    """One or those of a filter, in their order; what is known already waits once; what there isn't is refused."""
    epoch, endpoint = epoch_of(connection), made(connection)
    rows = [row("m1", "parked"), row("m2"), row("m3", "parked", type="lot.expired"), row("m4", "parked")]
    save_checkpoint(connection, epoch, endpoint.id, Checkpoint(rows=rows))
    assert resend_parked(connection, endpoint.id, DeliveryFilter(type="lot.granted"), by=BY) == 2
    assert [one.webhook_id for one in waiting(connection, endpoint.id, 0, 10)] == ["m2", "m1", "m4"]
    assert resend_one(connection, endpoint.id, "m2", by=BY) == 1
    with pytest.raises(UnknownDeliveryError):
        resend_one(connection, endpoint.id, "m9", by=BY)
    new = [NewDelivery(name, "ada", "lot.granted", "ada", "0:1", "", '{"a":1}') for name in ("m3", "m4", "m5")]
    assert add_deliveries(connection, endpoint.id, new, by=BY) == 2
    assert [one.webhook_id for one in waiting(connection, endpoint.id, 0, 10)] == ["m1", "m4", "m2", "m3", "m5"]
    assert body_of(connection, endpoint.id, "m5") == '{"a":1}'
    assert body_of(connection, endpoint.id, "m9") is None
    assert endpoint_of(connection, endpoint.id).revision > endpoint.revision


def test_what_is_old_or_too_much_is_forgotten(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts by age and by number, what was given up by age; what waits stays."""
    monkeypatch.setattr(delivery_tables, "MAX_ATTEMPTS", 3)
    epoch, endpoint = epoch_of(connection), made(connection)
    now = datetime.now(UTC)
    tried = [Tried(f"m{n}", "t", "ada", now - timedelta(days=n), 1, None, 1, "", b"") for n in (9, 5, 4, 3, 2)]
    save_checkpoint(connection, epoch, endpoint.id, Checkpoint(rows=[row("m1"), row("m2", "parked")], tried=tried))
    connection.execute("UPDATE ledger_delivery.deliveries SET made_at = made_at - interval '40 days'")
    forget_old(connection)
    assert [one.webhook_id for one in attempts(connection, endpoint.id)] == ["m2", "m3", "m4"]
    assert [one.webhook_id for one in deliveries(connection, endpoint.id)] == ["m1"]


def test_endpoints_have_a_bound(connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """And what can be none is refused before anything is made."""
    monkeypatch.setattr("creditfold.projections.delivery.endpoints.MAX_ENDPOINTS", 1)
    with pytest.raises(InvalidEndpointError):
        create_endpoint(connection, "ftp://shop.example", KEY, by=BY, owner="ann")
    with pytest.raises(InvalidEndpointError):
        made(connection, account_prefixes=["a"] * 101)
    made(connection)
    with pytest.raises(TooManyEndpointsError):
        made(connection)
    assert len(endpoints(connection)) == 1


LINE = """
    INSERT INTO ledger_0001.journal (log_offset, version, amount, change, balance, clock_ms, occurred_at_ms, pending,
        held, debt, log_partition, rules, account_id, kind, asset, source, note, extra, details, facts)
    VALUES ({offset}, {version}, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 'ada', 'grant', 'credits', '', '', '', '', '[]')
"""


def test_places_are_found_in_a_log_that_was_restored(prepared: Settings, connection: psycopg.Connection[Any]) -> None:
    """By the last line before each; without one an endpoint begins at the log's start. Nothing is left out."""
    epoch = epoch_of(connection)
    known, fresh = made(connection), made(connection)
    save_checkpoint(connection, epoch, known.id, Checkpoint([Cursor(0, Place(90), "ada", 2)]))
    create_rule(connection, "dropped", by=BY, owner="ann", below=5)
    assert not has_strangers(connection)
    for offset, version in ((7, 1), (8, 2), (9, 3)):
        execute(prepared, LINE.format(offset=offset, version=version))
    execute(prepared, "UPDATE ledger_0001.source SET topic_id = 'restored'")
    assert has_strangers(connection)
    adopt_log(connection, epoch)
    assert not has_strangers(connection)
    assert cursors_of(connection, known.id)[1].place == Place(8, "ada", 2)
    assert cursors_of(connection, fresh.id)[1].place == Place(0)
    assert [rule.begins for rule in alert_rules(connection)] == [{}]


def test_a_rule_that_is_being_made_is_heard_of(prepared: Settings, connection: psycopg.Connection[Any]) -> None:
    """Whoever judges lines by the rules that it knows writes nothing once there is another one."""
    epoch = epoch_of(connection)
    first = create_rule(connection, "dropped", by=BY, owner="ann", below=5)
    cursor, alert = alert_cursors(connection)[0], NewAlert(0, "ada", 1, first.id, "balance.dropped", "{}")
    save_judged(connection, epoch, [first.id], cursor._replace(place=Place(1)), Judged([alert]))
    with connected(prepared.dsn) as other, other.transaction():
        create_rule(other, "depleted", by=BY, owner="ann")
        raised: list[BaseException] = []

        def judge() -> None:
            try:
                with connected(prepared.dsn) as own:
                    save_judged(own, epoch, [first.id], cursor._replace(place=Place(2)), Judged())
            except RulesChangedError as error:
                raised.append(error)

        judging = threading.Thread(target=judge)
        judging.start()
        assert wait_until(lambda: query(prepared, WAITING) != [(0,)], HANG_S)
    judging.join(HANG_S)
    assert len(raised) == 1
    assert alert_cursors(connection)[0].place == Place(1)
    found = ends(connection)
    assert found is not None
    assert found.evaluated == {0: Place(1)}
