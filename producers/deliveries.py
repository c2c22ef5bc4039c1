"""The answer for an appended command, its position or an error, as a future; and failures that nobody looked at.

Knows no Kafka client.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeAlias, cast

from creditfold.common.position import Position
from creditfold.producers.models.errors import RESEND, AppendError, DeliveryFailedError

#: What a delivery callback gets: the command's position in the log, or why it wasn't confirmed.
Outcome: TypeAlias = Position | AppendError


class UnseenFailures:
    """Failures that nobody has looked at yet. Keeps the first thousand and counts the rest."""

    LIMIT = 1_000

    def __init__(self) -> None:
        self._errors: dict[int, Exception] = {}
        self._more = 0

    def add(self, error: Exception) -> None:
        """Keep a failure for the next `raise_any`."""
        if len(self._errors) < self.LIMIT:
            self._errors[id(error)] = error
        else:
            self._more += 1

    def discard(self, error: BaseException | None) -> None:
        """Forget a failure that somebody has looked at."""
        self._errors.pop(id(error), None)

    def raise_any(self) -> None:
        """Raise the failures as one error and forget them; return where there are none."""
        errors, self._errors = self._errors, {}
        count, self._more = len(errors) + self._more, 0
        if not count:
            return
        first = next(iter(errors.values()))
        if count == 1 or not isinstance(first, AppendError):
            raise first
        raise DeliveryFailedError(
            f"{count:,} commands were not confirmed. The first: {first.message}", RESEND
        ) from first


class Delivery(Future[Position]):
    """The future of a command's position. Remembers whether its failure was looked at; a cancel has no effect."""

    def __init__(self, unseen: UnseenFailures) -> None:
        super().__init__()
        self._unseen = unseen
        self.set_running_or_notify_cancel()

    def settle(self, outcome: Outcome) -> None:
        """Give the future its result or its failure."""
        if isinstance(outcome, Position):
            self.set_result(outcome)
        else:
            self._unseen.add(outcome)
            self.set_exception(outcome)

    def result(self, timeout: float | None = None) -> Position:
        """The position, waited for at most `timeout` seconds; raises the failure."""
        self.exception(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The failure, waited for at most `timeout` seconds; None where there is none."""
        error = super().exception(timeout)
        self._unseen.discard(error)
        return error


class BatchDelivery:
    """The answers of a batch of records, in the order of the records.

    Args:
        size: how many records there are, at least one.
        done: called once with all answers, in the thread in which the last one came.
    """

    def __init__(self, size: int, done: Callable[[Sequence[Outcome]], None]) -> None:
        self._answers: list[Outcome | None] = [None] * size
        self._left = size
        self._done = done
        # Answers come in the queue's thread, refusals in the one that hands over.
        self._lock = threading.Lock()

    def settle(self, number: int, outcome: Outcome) -> None:
        """Take the answer of one record; the first one counts."""
        with self._lock:
            if self._answers[number] is not None:
                return
            self._answers[number] = outcome
            self._left -= 1
            is_last = not self._left
        if is_last:
            self._done(cast(Sequence[Outcome], self._answers))

    def give_up(self, error: AppendError) -> None:
        """Give this error to each record that has no answer yet. What comes for it later reaches nobody."""
        for number in range(len(self._answers)):
            self.settle(number, error)
