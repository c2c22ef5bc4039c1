"""A defect says whether its request may have changed something: not where that only reads, whatever its method."""

from typing import Any, NamedTuple

import httpx
import pytest

from creditfold.api import commands, dead_letters, graphql, keys, preview
from creditfold.api.service import Service
from helpers.doors import Door
from helpers.support import HANG_S

pytestmark = pytest.mark.stack

GRANT = {"asset": "credits", "amount": 1}
LETTERS = {"every": True, "why": "a test needs it"}


class Failing(NamedTuple):
    """A request, and the function in which it fails by a defect.

    Fields:
        place: what has the function, and its name.
        method, path: of the request.
        body: as JSON.
        maybe_written: what its answer says.
    """

    place: tuple[Any, str]
    method: str
    path: str
    body: Any
    maybe_written: bool


#: In pairs: what changes something by the method, and what only reads.
REQUESTS = {
    "append": Failing((commands, "append"), "POST", "/v1/accounts/ann/grants", GRANT, True),
    "preview": Failing((preview, "preview"), "POST", "/v1/accounts/ann/grants?preview=true", GRANT, False),
    "redrive": Failing((dead_letters, "_audited"), "POST", "/v1/dead-letters:redrive", LETTERS, True),
    "redrive, previewed": Failing(
        (dead_letters, "_audited"), "POST", "/v1/dead-letters:redrive?preview=true", LETTERS, False
    ),
    "discard": Failing((dead_letters, "_audited"), "POST", "/v1/dead-letters:discard", LETTERS, True),
    "discard, previewed": Failing(
        (dead_letters, "_audited"), "POST", "/v1/dead-letters:discard?preview=true", LETTERS, False
    ),
    "key": Failing((keys, "_changed"), "DELETE", "/v1/keys/k?reason=test", None, True),
    "GraphQL": Failing((graphql, "_execute"), "POST", "/graphql", {"query": "{progress {partition}}"}, False),
    "GraphQL, before its query": Failing((graphql, "model_of"), "POST", "/graphql", {"query": "{"}, False),
    "read": Failing((Service, "read"), "GET", "/v1/accounts/ann", None, False),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_defect_says_whether_anything_may_be_written(door: Door, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the request is, not by its method alone."""
    asked = REQUESTS[name]

    def defect(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(*asked.place, defect)
    headers = {"Authorization": door.http.headers["Authorization"], "Idempotency-Key": "k"}
    # By a connection of its own: the server closes it behind a defect.
    answer = httpx.request(
        asked.method, f"{door.url}{asked.path}", json=asked.body, headers=headers, timeout=HANG_S, trust_env=False
    )
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error"), answer.text
    assert answer.json()["maybe_written"] is asked.maybe_written
