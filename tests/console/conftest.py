"""The door that the tests of a module share, and browsers of it that are logged in."""

from collections.abc import Iterator

import pytest

from creditfold.projections.access.scopes import SCOPES
from helpers.console import Visitor
from helpers.doors import Door, open_door
from helpers.stack_under_test import StackUnderTest


@pytest.fixture(scope="module")
def door(stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A door on a ledger of its own, with a worker. Each test takes accounts of its own."""
    with open_door(stack, tmp_path_factory.mktemp("door")) as opened:
        yield opened


@pytest.fixture(scope="module")
def visitor(door: Door) -> Iterator[Visitor]:
    """Somebody who is logged in with a key that may do everything."""
    with Visitor(door.url) as found:
        found.log_in(door.make_key(*SCOPES).text)
        yield found
