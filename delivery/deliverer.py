"""Delivers to all endpoints, as long as this process leads. Owns who leads, which runners there are, and the news.

Everything that it does ends where it doesn't lead any more, and is begun anew from what PostgreSQL has; so does what a
failure of PostgreSQL interrupts. What was sent and not written down then is sent again, by the same ids.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from psycopg import Error
from psycopg_pool import PoolTimeout

from creditfold.common.errors import CreditfoldError
from creditfold.delivery.addresses import networks_of
from creditfold.delivery.asker import Asker
from creditfold.delivery.evaluator import Evaluator
from creditfold.delivery.feed import Feed
from creditfold.delivery.meter import Meter
from creditfold.delivery.runner import Runner, Tools
from creditfold.delivery.sender import Sender
from creditfold.projections.delivery.checkpoints import EndpointGoneError, adopt_log
from creditfold.projections.delivery.deliveries import forget_old
from creditfold.projections.delivery.endpoints import UnknownEndpointError, revisions
from creditfold.projections.delivery.leadership import LEASE_S, SupersededError, claim, release, renew
from creditfold.projections.delivery.reading import ends, has_strangers
from creditfold.projections.failures import is_outage, outage_event, why
from creditfold.projections.tables.source import LogChangedError

#: Seconds between two signs of who leads, and between two looks of who stands by.
BEAT_S = 2.0
#: Seconds between two looks at how far the fold is: while it moves, and at most.
BUSY_PAUSE_S = 0.05
IDLE_PAUSE_S = 0.5
#: Seconds between two looks at which endpoints there are.
LOOK_S = 1.0
CLEAN_EVERY_S = 60.0
REPORT_EVERY_S = 5.0
#: Pauses before what failed is begun anew, in seconds: the first, and the longest.
FIRST_RETRY_S, LONGEST_RETRY_S = 0.2, 5.0
#: Connections to PostgreSQL that write, and that read.
WRITERS, READERS = 4, 3

log = structlog.get_logger()


class Deliverer:
    """One process of those that may deliver.

    Args:
        owner: its name.
        allowed_networks: that may be called though they aren't public, by commas.
        write: asks PostgreSQL on connections that write.
        read: asks PostgreSQL in a reading transaction.
        on_turn: called with a state in a word, whenever it goes round.
    """

    def __init__(
        self,
        owner: str,
        allowed_networks: str,
        write: Asker,
        read: Asker,
        on_turn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.meter = Meter()
        self._owner = owner
        self._allowed = networks_of(allowed_networks)
        self._write = write
        self._read = read
        self._on_turn = on_turn

    async def run(self) -> None:
        """Stand by, and deliver whenever the lease is this process's, until cancelled."""
        retry_s = FIRST_RETRY_S
        while True:
            try:
                self._on_turn("standing by")
                epoch = await self._write(claim, self._owner)
                if epoch is None:
                    await asyncio.sleep(BEAT_S)
                    continue
                log.info("delivers webhooks", epoch=epoch)
                retry_s = FIRST_RETRY_S
                await self._lead(epoch)
            except SupersededError as error:
                log.warning("delivers no more", why=error.message)
            except Exception as error:
                # A defect too: others than what it is about are delivered to by whoever leads next.
                _log_failure("waiting to deliver", error)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, LONGEST_RETRY_S)

    async def _lead(self, epoch: int) -> None:
        """Deliver until this process doesn't lead any more. Raises what ended it."""
        sender = Sender(self._allowed)
        tools = Tools(Feed(self._read), self._write, sender, epoch, self.meter)
        try:
            if await self._write(has_strangers):
                log.warning("another log is live: the places of endpoints are looked up in it")
                await self._write(adopt_log, epoch)
            async with asyncio.TaskGroup() as group:
                for work in (
                    self._beat(epoch),
                    self._watch(tools),
                    self._run_all(tools),
                    Evaluator(self._write, self._read, epoch).run(),
                    self._clean(),
                    self._report(),
                ):
                    group.create_task(work)
        except BaseExceptionGroup as errors:
            raise _first_of(errors) from errors
        finally:
            await sender.close()
            await self._give_up(epoch)

    async def _give_up(self, epoch: int) -> None:
        # Else it runs out by itself.
        with suppress(Error, PoolTimeout):
            await self._write(release, epoch)

    async def _beat(self, epoch: int) -> None:
        """Renew the lease. Raises what keeps it from being renewed, once it has run out."""
        renewed_at = time.monotonic()
        while True:
            self._on_turn("delivering")
            asked_at = time.monotonic()
            try:
                await self._write(renew, epoch)
                renewed_at = asked_at
            except (Error, PoolTimeout):
                if time.monotonic() - renewed_at > LEASE_S:
                    raise
            await asyncio.sleep(BEAT_S)

    async def _watch(self, tools: Tools) -> None:
        """Have the runners hear how far the fold is. Raises LogChangedError where another log is live by now."""
        pause_s, known = BUSY_PAUSE_S, None
        while True:
            found = await self._write(ends)
            if found is not None:
                if known is not None and known != found.log:
                    raise LogChangedError("Another log is live.", "Its places are looked up.")
                known = found.log
                pause_s = BUSY_PAUSE_S if tools.feed.set_ends(found) else min(pause_s * 1.5, IDLE_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _run_all(self, tools: Tools) -> None:
        """Have a runner for each endpoint that is enabled."""
        runners: dict[str, tuple[Runner, asyncio.Task[None]]] = {}
        known: dict[str, int] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                found = await self._write(revisions)
                for endpoint_id in runners.keys() - found.keys():
                    runners.pop(endpoint_id)[1].cancel()
                for endpoint_id, revision in found.items():
                    if endpoint_id not in runners or runners[endpoint_id][1].done():
                        runner = Runner(endpoint_id, tools)
                        runners[endpoint_id] = runner, group.create_task(_kept_running(runner, endpoint_id, tools))
                    elif known.get(endpoint_id) != revision:
                        runners[endpoint_id][0].note_change()
                known = dict(found)
                await asyncio.sleep(LOOK_S)

    async def _clean(self) -> None:
        while True:
            await asyncio.sleep(CLEAN_EVERY_S)
            await self._write(forget_old)

    async def _report(self) -> None:
        reported = self.meter.counts
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            counts = self.meter.counts
            if counts != reported:
                reported = counts
                log.info("delivered", **counts._asdict())


async def _kept_running(runner: Runner, endpoint_id: str, tools: Tools) -> None:
    """Run an endpoint's runner, and begin anew where it fails. Raises SupersededError.

    It returns where the endpoint is disabled or gone; where it was changed before that was seen, another one begins.
    """
    retry_s = FIRST_RETRY_S
    while True:
        began = time.monotonic()
        try:
            await runner.run()
            tools.meter.disabled += 1
            log.warning("an endpoint was disabled", endpoint=endpoint_id)
            return
        except (EndpointGoneError, UnknownEndpointError):
            return
        except (SupersededError, LogChangedError):
            raise
        except Exception as error:
            # A defect of one endpoint's is no reason to leave the others alone.
            _log_failure("waiting to deliver", error, endpoint=endpoint_id)
        retry_s = FIRST_RETRY_S if time.monotonic() - began > LONGEST_RETRY_S else min(retry_s * 2, LONGEST_RETRY_S)
        await asyncio.sleep(retry_s)


def _log_failure(event: str, error: BaseException, **about: Any) -> None:
    if isinstance(error, Error | PoolTimeout) and is_outage(error):
        log.warning(f"{outage_event(error)} to deliver", why=why(error), **about)
    elif isinstance(error, CreditfoldError):
        log.warning(event, why=str(error), **about)
    else:
        log.error(event, exc_info=error, **about)


def _first_of(errors: BaseExceptionGroup[Any]) -> BaseException:
    """One error of a group: that another process leads says more than what came of it."""
    leaves = list(_leaves(errors))
    return next((one for one in leaves if isinstance(one, SupersededError)), leaves[0])


def _leaves(errors: BaseExceptionGroup[Any]) -> Any:
    for one in errors.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one
