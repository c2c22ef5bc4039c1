"""The door that the tests of a module share."""

from collections.abc import Iterator

import pytest

from helpers.doors import Door, open_door
from helpers.stack_under_test import StackUnderTest


@pytest.fixture(scope="module")
def door(stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A door on a ledger of its own, with a worker. Each test takes accounts of its own."""
    with open_door(stack, tmp_path_factory.mktemp("door")) as opened:
        yield opened


@pytest.fixture
def account(request: pytest.FixtureRequest) -> str:
    """An account that no other test of the module uses."""
    return f"of-{request.node.name}"[:128]
