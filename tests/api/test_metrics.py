"""What the door counts and measures: by route, bounded in labels, with a scope or at an address of its own."""

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from creditfold.api.server import ListenError, listening
from creditfold.common.settings import Settings
from creditfold.common.waiting import wait_until
from helpers.doors import BulkCall, Door, serving
from helpers.stack_under_test import free_port
from helpers.support import HANG_S, ROOT

pytestmark = pytest.mark.stack

OUTCOMES, COMMANDS = "/v1/outcomes", "/v1/commands"


class Scraped(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Samples by name and labels."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in families(text)}
        super().__init__(
            ((sample.name, frozenset(sample.labels.items())), sample.value)
            for family in self.families.values()
            for sample in family.samples
        )

    def of(self, name: str, **labels: str) -> float:
        """A sample of the door's; 0 where there is none yet."""
        return self.get((f"creditfold_http_{name}", frozenset(labels.items())), 0.0)


def scraped(door: Door) -> Scraped:
    """All samples now."""
    answer = door.http.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Scraped(answer.text)


def test_requests_are_counted_by_route_and_never_by_path(door: Door, account: str) -> None:
    """However many paths and methods a client makes up; what is refused before a route is found has no route."""
    door.grant(account, 5)
    for _ in range(3):
        door.http.get(f"/v1/accounts/{account}")
    before = scraped(door)
    for number in range(20):
        assert door.http.get(f"/made/up/{number}").status_code == 404
        assert door.http.request(f"MAKE{number}", f"/v1/accounts/{number}").status_code == 405
    assert door.http.get("/v1/accounts/%ff").status_code == 400
    assert door.http.get(f"/v1/accounts/{account}", params={"made": "up"}).status_code == 400
    after = scraped(door)

    def more(name: str, **labels: str) -> float:
        return after.of(name, **labels) - before.of(name, **labels)

    one = {"route": "/v1/accounts/{account}", "method": "GET"}
    assert before.of("requests_total", **one, status="200") == 3
    assert before.of("request_seconds_count", **one) == 3
    assert before.of("requests_total", route="/v1/accounts/{account}/grants", method="POST", status="201") == 1
    assert more("requests_total", route="none", method="GET", status="404") == 20
    assert more("requests_total", route="none", method="GET", status="400") == 1
    assert more("requests_total", **one, status="400") == 1
    assert more("requests_total", route="/v1/accounts/{account}", method="other", status="405") == 20
    assert after.of("requests_in_flight") == 1
    assert after.of("connections_open") >= 1
    # What is in the answers of these, and nothing else, is new.
    assert len(after) - len(before) < 100


def test_streams_are_counted_while_they_are_open(door: Door) -> None:
    """Those of outcomes and bulk requests, until they end."""
    authorization = door.http.headers["Authorization"]
    with door.http.stream("GET", OUTCOMES) as answer:
        parts = answer.iter_raw()
        next(parts)
        call = BulkCall(door.url, Authorization=authorization)
        call.send({"type": "spend"})
        assert call.answer() is not None
        seen = scraped(door)
        assert [seen.of("streams_open", route=route) for route in (OUTCOMES, COMMANDS)] == [1, 1]
        assert seen.of("requests_in_flight") == 3
        call.end()
        call.answers()
        call.connection.close()
    assert wait_until(
        lambda: [scraped(door).of("streams_open", route=route) for route in (OUTCOMES, COMMANDS)] == [0, 0], HANG_S
    )


def test_who_waits_and_who_is_refused_is_counted(door: Door) -> None:
    """A wait for the fold while it lasts, and a request beyond its key's rate."""
    before = scraped(door)
    key = door.make_key("read:balance", rate=0.001, burst=1)
    with door.with_key(key.text) as client:
        assert [client.get("/v1/progress").status_code for _ in range(3)] == [200, 429, 429]
    assert scraped(door).of("rate_limited_total") - before.of("rate_limited_total") == 2
    with httpx.Client(base_url=door.url, headers=door.http.headers, timeout=HANG_S, trust_env=False) as other:
        # Held by its bound of five seconds, which nothing ends before.
        with pytest.raises(httpx.ReadTimeout):
            other.get("/v1/accounts/x", params={"at_least": "0:999999999"}, timeout=0.5)
        assert scraped(door).of("fold_waits") >= 1
    assert wait_until(lambda: scraped(door).of("fold_waits") == 0, HANG_S)


def test_metrics_have_an_address_of_their_own(door: Door) -> None:
    """There without a key, and nothing but them; where it can't be had, that is an error."""
    at = f"127.0.0.1:{free_port()}"
    with serving(door.settings.model_copy(update={"api_metrics_address": at})) as url:
        with httpx.Client(base_url=f"http://{at}", headers=door.http.headers, timeout=HANG_S, trust_env=False) as own:
            assert "creditfold_http_requests_in_flight" in own.get("/metrics").text
            for method, path in (("GET", "/v1/progress"), ("GET", "/health/live"), ("POST", "/metrics")):
                answer = own.request(method, path)
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
                assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
        assert httpx.get(f"{url}/metrics", timeout=HANG_S, trust_env=False).status_code == 401
        with pytest.raises(ListenError, match="can't be listened on"):
            listening("127.0.0.1", int(at.rpartition(":")[2]))
    with pytest.raises(ValueError, match="host:port"):
        Settings(api_metrics_address="29081")


def test_every_metric_is_documented(door: Door) -> None:
    """By its name, in the table of docs/operating.md; and none of its own that there isn't."""
    page = (ROOT / "docs" / "operating.md").read_text("utf-8")
    names = {
        f"{name}_total" if family.type == "counter" else name
        for name, family in scraped(door).families.items()
        if name.startswith("creditfold_http_")
    }
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `creditfold_http_")}
    assert names == listed
