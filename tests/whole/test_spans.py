"""A distributed trace goes from a request through the log to the outcome and the webhook, with spans if asked for."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from creditfold.common.settings import Settings
from creditfold.common.spans import SPANS
from creditfold.common.trace_context import trace_context
from creditfold.common.waiting import wait_until
from creditfold.processors.rebuild.steps import Request, rebuild
from creditfold.producers import AsyncCommandProducer, CommandProducer, Grant, encode_command
from creditfold.projections.access.keys import create_key
from creditfold.projections.access.scopes import SCOPES
from creditfold.projections.connections import connected
from helpers.collectors import collecting
from helpers.receivers import BY, LOOPBACK, Answer, Call, Receiver, delivering, make_endpoint, wait_for_calls
from helpers.stack_under_test import free_port
from helpers.support import (
    HANG_S,
    Quiet,
    Raw,
    WorkerProcess,
    append,
    execute,
    fold_log,
    publisher,
    query,
    read_topic,
    record,
    worker,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"00-{'9' * 32}-{SPAN}-00"
CONTEXTS = "SELECT log_partition, log_offset, traceparent FROM ledger.trace_contexts ORDER BY 1, 2"


def header_of(headers: Any) -> str | None:
    """The context that a record carries."""
    found = [value.decode() for name, value in headers or () if name == "traceparent"]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as opened:
        yield opened


class Shop(NamedTuple):
    """A ledger whose four processes run and send spans, and a client of its door."""

    settings: Settings
    http: httpx.Client
    door: WorkerProcess
    others: tuple[WorkerProcess, ...]

    def grant(self, account: str, *contexts: str) -> httpx.Response:
        """Grant an account credits by a request with these contexts."""
        headers = [("Idempotency-Key", f"g-{account}"), ("Prefer", "wait=30"), ("X-Request-ID", f"r-{account}")]
        headers += [("traceparent", context) for context in contexts]
        body = {"asset": "credits", "amount": 7}
        answer = self.http.post(f"/v1/accounts/{account}/grants", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer

    def stop(self) -> None:
        """Stop all, which send what spans they have."""
        assert [process.stop() for process in (self.door, *self.others)] == [0, 0, 0, 0]


@contextmanager
def open_shop(ledger: Settings, folder: Path, collector: str, receiver: str) -> Iterator[Shop]:
    more = {"otlp_endpoint": collector, "webhook_allowed_networks": LOOPBACK}
    settings = ledger.model_copy(update={**more, "api_port": free_port(), "api_log_requests": True})
    make_endpoint(settings, receiver, types=["command.accepted"])
    with connected(settings.dsn) as connection:
        key = create_key(connection, "shop", SCOPES, by=BY).text
    with (
        worker(settings, folder) as folding,
        publisher(settings, folder) as publishing,
        worker(settings, folder, "delivery", command="delivery") as calling,
        worker(settings, folder, "serve", command="serve") as door,
        httpx.Client(
            base_url=f"http://127.0.0.1:{settings.api_port}",
            headers={"Authorization": f"Bearer {key}"},
            timeout=HANG_S,
            trust_env=False,
        ) as http,
    ):
        assert wait_until(lambda: is_up(http), HANG_S), door.text()
        yield Shop(settings, http, door, (folding, publishing, calling))


def test_one_trace_leads_from_a_request_to_its_webhook(
    ledger_settings: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    """Each process has its span in it, and what it hands on is of that one; what isn't sampled ends with the log."""
    with collecting() as collector, open_shop(ledger_settings, tmp_path, collector.url, receiver.url) as shop:
        position = shop.grant("traced", CONTEXT).headers["Creditfold-Position"]
        shop.grant("unsampled", UNSAMPLED)
        shop.grant("garbage", "00-x")
        shop.grant("two", CONTEXT, CONTEXT)
        calls = {call.account: call for call in wait_for_calls(receiver, 4)}
        spans = ["serve POST /v1/accounts/{account}/grants", "worker fold", "publisher publish outcome"]
        spans.append("delivery deliver command.accepted")
        assert wait_until(lambda: set(collector.of(TRACE)) == set(spans), HANG_S), collector.spans
        request, fold, outcome, webhook = (collector.of(TRACE)[name] for name in spans)
        assert request.parent_id == SPAN
        assert {fold.parent_id, outcome.parent_id, webhook.parent_id} == {request.span_id}
        assert request.attributes["http.response.status_code"] == 201
        assert request.attributes["creditfold.request_id"] == "r-traced"
        assert {one.attributes["creditfold.position"] for one in (fold, outcome, webhook)} == {position}
        assert not any(one.failed for one in collector.spans)
        assert calls["traced"].headers["traceparent"] == f"00-{TRACE}-{webhook.span_id}-01"
        assert "traceparent" not in calls["unsampled"].headers
        begun = [calls[name].headers["traceparent"] for name in ("garbage", "two")]
        assert TRACE not in {context[3:35] for context in begun}
        # Each of a trace that it began.
        assert len({context[3:35] for context in begun}) == 2
        shop.stop()
    check_records(shop.settings, request.span_id, outcome.span_id)
    check_lines(shop.door, position)


def check_records(settings: Settings, request: str, outcome: str) -> None:
    """What records and messages carry, by the ids of the spans."""
    logged = {header_of(seen.headers) for seen in read_topic(settings, settings.commands_topic)}
    assert logged >= {f"00-{TRACE}-{request}-01", UNSAMPLED}
    assert len(query(settings, CONTEXTS)) == 3
    carried = [header_of(seen.headers) for seen in read_topic(settings, settings.outcomes_topic)]
    assert f"00-{TRACE}-{outcome}-01" in carried
    assert carried.count(None) == 1


def is_up(http: httpx.Client) -> bool:
    try:
        return http.get("/health/live").status_code == 200
    except httpx.TransportError:
        return False


def check_lines(door: WorkerProcess, position: str) -> None:
    """What the door has logged of the requests: ids, position, trace."""
    lines = {line["request_id"]: line for line in door.lines() if line["event"] == "request"}
    assert lines["r-traced"] | {"ms": 0, "timestamp": ""} == {
        "event": "request",
        "level": "info",
        "timestamp": "",
        "method": "POST",
        "route": "/v1/accounts/{account}/grants",
        "status": 201,
        "ms": 0,
        "request_id": "r-traced",
        "command_id": "g-traced",
        "position": position,
        "trace_id": TRACE,
    }
    assert lines["r-unsampled"]["trace_id"] == "9" * 32


def test_without_a_collector_the_context_goes_through_as_it_came(
    ledger_settings: Settings, receiver: Receiver, tmp_path: Path
) -> None:
    """To the outcome, to the webhook and its second try; a rebuild keeps it too."""
    settings = ledger_settings.model_copy(update={"webhook_allowed_networks": LOOPBACK})
    failed: list[Call] = []

    def answer(call: Call) -> Answer:
        failed.append(call)
        return (500 if len(failed) == 1 else 200), {}, b""

    receiver.answer = answer
    endpoint, _ = make_endpoint(settings, receiver.url, types=["command.accepted"])
    grant = record("Grant", "g-1", "ada", 5)
    bad = (("traceparent", b"00-x"), ("Traceparent", CONTEXT.encode()), ("other", None))
    append(
        settings,
        [
            grant._replace(headers=(("traceparent", CONTEXT.encode()),)),
            record("Grant", "g-2", "ada", 5)._replace(headers=bad),
            record("Grant", "g-3", "ada", 5),
            Raw(b"?", b"bob", headers=(("traceparent", CONTEXT.encode()),)),
        ],
    )
    fold_log(settings)
    found = query(settings, CONTEXTS)
    assert [context for _, _, context in found] == [CONTEXT] * 2
    with publisher(settings, tmp_path):
        assert wait_until(lambda: len(read_topic(settings, settings.outcomes_topic)) == 3, HANG_S)
    outcomes = read_topic(settings, settings.outcomes_topic)
    assert sorted(header_of(seen.headers) or "" for seen in outcomes) == ["", "", CONTEXT]
    with delivering(settings):
        wait_for_calls(receiver, 1)
        stored = "SELECT traceparent, tries FROM ledger_delivery.deliveries WHERE endpoint_id = %s ORDER BY number"
        assert wait_until(lambda: query(settings, stored, (endpoint.id,))[:1] == [(CONTEXT, 1)], HANG_S)
    execute(settings, "UPDATE ledger_delivery.deliveries SET next_at = now()")
    with delivering(settings):
        calls = wait_for_calls(receiver, 4)
    assert [call.headers.get("traceparent") for call in calls] == [CONTEXT, CONTEXT, None, None]
    done = rebuild(settings, Request(), Quiet())
    assert query(settings, CONTEXTS.replace("ledger.", f"ledger_{done.number:04}.")) == found


def test_contexts_of_last_week_go(ledger_settings: Settings) -> None:
    """As new ones come, in each partition; one that comes late isn't kept at all."""
    old = """INSERT INTO ledger_0001.trace_contexts
             SELECT p, -n, (extract(epoch FROM now()) - 8 * 86400) * 1000, 'old' FROM generate_series(0, 3) p,
                 generate_series(1, 50) n"""
    execute(ledger_settings, old)
    append(ledger_settings, [record("Grant", "g", "ada", 5)._replace(headers=(("traceparent", CONTEXT.encode()),))])
    fold_log(ledger_settings)
    left = query(ledger_settings, "SELECT traceparent, count(*) FROM ledger_0001.trace_contexts GROUP BY 1 ORDER BY 1")
    assert left == [(CONTEXT, 1), ("old", 150)]


async def test_each_way_to_append_carries_the_context(ledger_settings: Settings) -> None:
    """Of whoever appends; and what is appended after that carries none."""
    settings = ledger_settings

    def grant(name: str) -> Grant:
        return Grant(command_id=name, account="ada", asset="credits", amount=1)

    with CommandProducer(settings.kafka_client, settings.commands_topic) as producer:
        with trace_context(CONTEXT):
            producer.append(grant("one"))
            producer.append_many([grant("many")])
            delivered: list[Any] = []
            producer.submit_batch([encode_command(grant("batch"))], delivered.append)
            producer.flush()
        producer.append(grant("later"))
    async with AsyncCommandProducer(settings.kafka_client, settings.commands_topic) as later:
        with trace_context(CONTEXT):
            await later.append(grant("async"))
            answers, _ = await later.submit_batch([encode_command(grant("async batch".replace(" ", "-")))])
            await answers
    carried = [header_of(seen.headers) for seen in read_topic(settings, settings.commands_topic)]
    assert carried == [CONTEXT] * 3 + [None] + [CONTEXT] * 2


def test_a_collector_that_is_away_holds_up_nothing() -> None:
    """Spans are made, dropped, and the process ends."""
    with SPANS.sent("worker", f"http://127.0.0.1:{free_port()}/v1/traces"):
        for number in range(5_000):
            with SPANS.begin("fold", "consumer", CONTEXT, {"number": number}) as span:
                assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", str(span.traceparent))
                assert span.traceparent != CONTEXT
    with SPANS.begin("fold", "consumer", CONTEXT) as span:
        assert span.traceparent == CONTEXT
