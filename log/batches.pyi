"""What batches.pyx has, for the type checker."""

from collections.abc import Callable, Mapping
from typing import final

from creditfold.log.record import LogRecord

class StrangeBatchError(Exception): ...

@final
class Batches:
    def __init__(
        self, data: bytes, decoders: Mapping[int, Callable[[bytes], bytes]], checksum: Callable[[bytes], int]
    ) -> None: ...
    @property
    def epoch(self) -> int: ...
    def next(self, start: int) -> tuple[int, list[LogRecord]] | None: ...
