"""The door that the tests of a module share, and a proxy in front of it that breaks connections."""

from collections.abc import Iterator

import pytest

from helpers.cutting_proxy import CuttingProxy
from helpers.doors import Door, open_door
from helpers.stack_under_test import StackUnderTest


@pytest.fixture(scope="module")
def door(stack: StackUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A door on a ledger of its own, with a worker. Each test takes accounts of its own."""
    with open_door(stack, tmp_path_factory.mktemp("door")) as opened:
        yield opened


@pytest.fixture(scope="module")
def proxy(door: Door) -> Iterator[CuttingProxy]:
    """A proxy in front of the door."""
    with CuttingProxy(door.url) as running:
        yield running
