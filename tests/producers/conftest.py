"""Fixtures of the tests of what appends: a log without a ledger, and an import into it."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from creditfold.common.settings import Settings
from creditfold.log.admin import KafkaAdmin
from creditfold.log.topics import create_topics
from helpers.imports import Import
from helpers.stack_under_test import StackUnderTest
from helpers.support import HANG_S, patiently


@pytest.fixture
def log_settings(stack: StackUnderTest) -> Iterator[Settings]:
    """Settings with a command topic of 4 partitions that no other test knows; nothing is folded from it."""
    # The other topics are made once and stay empty.
    names = {f"{kind}_topic": f"creditfold.{kind}.unfolded" for kind in ("outcomes", "dead_letters")}
    topic = f"creditfold.commands.{uuid.uuid4().hex[:12]}"
    settings = stack.settings.model_copy(update={"commands_topic": topic, "partitions": 4, **names})
    patiently(lambda: create_topics(settings))
    yield settings
    client = KafkaAdmin(settings).client  # It answers as long as it lives.
    client.delete_topics([topic])[topic].result(HANG_S)


@pytest.fixture
def work(log_settings: Settings, tmp_path: Path) -> Import:
    """An import of a JSON Lines file that isn't written yet."""
    return Import(log_settings, tmp_path, tmp_path / "commands.jsonl")
