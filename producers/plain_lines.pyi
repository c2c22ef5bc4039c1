"""What plain_lines.pyx has, for the type checker."""

from collections.abc import Sequence
from typing import final

from creditfold.producers.models.commands import Encoded

FIELDS: Sequence[str]

@final
class PlainLines:
    def __init__(self, grant: bytes, spend: bytes, columns: Sequence[str] | None = None) -> None: ...
    def encoded(self, record: bytes) -> Encoded | None: ...
