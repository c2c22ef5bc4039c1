"""How the context of a distributed trace is read, and under which one this task or thread works."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creditfold.common.trace_context import (
    is_sampled,
    present_traceparent,
    read_traceparent,
    trace_context,
    trace_id_of,
    traceparent_of,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (CONTEXT, CONTEXT),
        (CONTEXT.encode(), CONTEXT),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        # What the specification's second level has for chance.
        (f"00-{TRACE}-{SPAN}-03", f"00-{TRACE}-{SPAN}-03"),
        # A later version has what 00 has, and more.
        (f"cc-{TRACE}-{SPAN}-ff-more", f"00-{TRACE}-{SPAN}-01"),
        (f"cc-{TRACE}-{SPAN}-fe", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"cc-{TRACE}-{SPAN}-01.more", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (CONTEXT.upper(), None),
        (f" {CONTEXT}", None),
        (f"{CONTEXT}\n", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"00-{TRACE[1:]}-{SPAN}-01", None),
        (CONTEXT.replace("4", "\u0664"), None),
        (f"cc-{TRACE}-{SPAN}-01-{'x' * 1_000}", None),
        (b"\xff" * 55, None),
        ("", None),
        (None, None),
    ],
)
def test_what_is_no_context_is_passed_over(value: str | bytes | None, expected: str | None) -> None:
    assert read_traceparent(value) == expected


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80), st.from_regex(r"\A[0-9a-f-]{55}\Z")))
def test_what_is_read_is_sent_on_as_it_is(value: str | bytes) -> None:
    found = read_traceparent(value)
    assert found is None or (len(found) == 55 and read_traceparent(found) == found)


def test_two_contexts_are_none() -> None:
    assert traceparent_of([("other", b"x"), ("traceparent", CONTEXT.encode())]) == CONTEXT
    assert traceparent_of([(b"traceparent", CONTEXT.encode())]) == CONTEXT
    assert traceparent_of([("traceparent", CONTEXT.encode())] * 2) is None
    assert traceparent_of([("traceparent", None)]) is None
    assert traceparent_of([]) is None


def test_what_a_context_says() -> None:
    assert trace_id_of(CONTEXT) == TRACE
    assert is_sampled(CONTEXT)
    assert not is_sampled(f"00-{TRACE}-{SPAN}-02")


def test_a_context_is_a_task_s_or_a_thread_s_own() -> None:
    seen: list[str | None] = []
    with trace_context(CONTEXT):
        other = threading.Thread(target=lambda: seen.append(present_traceparent()))
        other.start()
        other.join()
        with trace_context("nonsense"):
            seen.append(present_traceparent())
        seen.append(present_traceparent())
    seen.append(present_traceparent())
    assert seen == [None, None, CONTEXT, None]

    async def one(context: str | None) -> str | None:
        with trace_context(context):
            await asyncio.sleep(0)
            return await asyncio.to_thread(present_traceparent)

    async def both() -> list[str | None]:
        return list(await asyncio.gather(one(CONTEXT), one(None)))

    assert asyncio.run(both()) == [CONTEXT, None]
