"""Cursors: what one says is read back as it was written, and nothing else is taken for one."""

from typing import Any

import pytest

from creditfold.api.parameters import cursor_of, place_of
from creditfold.api.problems import ProblemError

LIKE = (0, "", [[0, 0]])


@pytest.mark.parametrize("name", ["ada", "", "ad\u200ba", "a\tb\n", "\U0001fa99", "e\u0301", "\u202eada"])
def test_a_cursor_says_where_it_was_made(name: str) -> None:
    """In any account that there can be, with characters that nobody sees too."""
    place = [2**63 - 1, name, [[0, 1], [1, 2]]]
    assert place_of("journal", cursor_of("journal", place), LIKE) == place


@pytest.mark.parametrize(
    "place",
    [
        (-1, "", []),
        (2**63, "", []),
        (True, "", []),
        (0, "a\0", []),
        (0, "\ud800", []),
        (0, 1, []),
        (0, "", [[0]]),
        (0,),
    ],
)
def test_what_is_no_place_is_refused(place: tuple[Any, ...]) -> None:
    """By its form: no query is asked with it."""
    with pytest.raises(ProblemError) as refused:
        place_of("journal", cursor_of("journal", place), LIKE)
    assert refused.value.code == "invalid_cursor"
    with pytest.raises(ProblemError):
        place_of("rejections", cursor_of("journal", (0, "", [])), LIKE)
