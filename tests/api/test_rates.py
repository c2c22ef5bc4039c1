"""Rate limits by key: a bucket of tokens, the header fields of each answer, and 429 in words."""

import httpx
import pytest

from creditfold.api.limits import Bucket, Rate, Taken
from helpers.doors import Door, serving
from helpers.support import HANG_S

pytestmark = pytest.mark.stack

#: A request in a quarter of an hour: nothing comes back while a test runs, however slow that is.
SLOW = 0.001


def test_a_bucket_fills_at_its_rate_and_no_further() -> None:
    """Of 4 tokens at 2 a second, by a clock of the test's own."""
    bucket = Bucket(Rate(2.0, 4), now=100.0)
    taken = [bucket.take(100.0) for _ in range(6)]
    assert [one.is_allowed for one in taken] == [True] * 4 + [False] * 2
    assert [one.left for one in taken] == [3, 2, 1, 0, 0, 0]
    assert [one.until_s for one in taken] == [1, 1, 2, 2, 1, 1]
    assert [bucket.take(100.4).is_allowed, bucket.take(100.5).is_allowed, bucket.take(100.5).is_allowed] == [
        False,
        True,
        False,
    ]
    assert bucket.take(1_000.0) == Taken(True, 3, 1)


def test_a_rate_without_a_burst_holds_a_second() -> None:
    """And one request at least."""
    assert [Rate.of(2.5, None).burst, Rate.of(SLOW, None).burst, Rate.of(2.5, 9).burst] == [3, 1, 9]


def statuses(url: str, text: str, count: int) -> list[httpx.Response]:
    """What a door answers to as many requests, one after the other."""
    headers = {"Authorization": f"Bearer {text}"}
    with httpx.Client(base_url=url, headers=headers, timeout=HANG_S, trust_env=False) as client:
        return [client.get("/v1/progress") for _ in range(count)]


def test_a_key_with_a_rate_of_its_own_is_refused_what_is_too_much(door: Door) -> None:
    """Not before its bucket is empty, with a problem that says when; other keys have other buckets."""
    key = door.make_key("read:balance", rate=SLOW, burst=3)
    answers = statuses(door.url, key.text, 5)
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"key";q=3;w=3000'}
    assert [answer.headers["RateLimit"].split(";")[1] for answer in answers] == ["r=2", "r=1", "r=0", "r=0", "r=0"]
    refused = answers[3]
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert (refused.json()["code"], refused.json()["maybe_written"]) == ("too_many_requests", False)
    wait_s = int(refused.headers["Retry-After"])
    assert 0 < wait_s <= 1_000
    assert refused.headers["RateLimit"].endswith(f";t={wait_s}")
    other = door.make_key("read:balance", rate=SLOW, burst=1)
    assert [answer.status_code for answer in statuses(door.url, other.text, 2)] == [200, 429]
    # Without a rate there is no limit and no field.
    assert "RateLimit" not in door.http.get("/v1/progress").headers
    # What needs no key has no bucket.
    assert door.http.get("/health/live", headers={"Authorization": f"Bearer {key.text}"}).status_code == 200


def test_the_settings_limit_keys_without_a_rate_of_their_own(door: Door) -> None:
    """And a refused key, too, has its fields; a scope that is lacking costs a token like any request."""
    usual, own = door.make_key("read:balance"), door.make_key("read:balance", rate=SLOW, burst=4)
    wrong = door.make_key("audit")
    with serving(door.settings.model_copy(update={"api_rate": SLOW, "api_burst": 2})) as url:
        assert [answer.status_code for answer in statuses(url, usual.text, 3)] == [200, 200, 429]
        assert [answer.status_code for answer in statuses(url, own.text, 5)] == [200, 200, 200, 200, 429]
        refused = statuses(url, wrong.text, 3)
        assert [answer.status_code for answer in refused] == [403, 403, 429]
        assert refused[0].headers["RateLimit"].startswith('"key";r=1;')
