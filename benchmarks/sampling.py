"""Reports where a Python process spends its CPU time, by stage of the fold. Owns the sampling and the names of stages.

A timer of CPU time interrupts the process; what each thread has used since the last time is counted towards the stage
that the thread is in, by the innermost function that the table knows. Garbage collection, which happens wherever
memory is asked for, is a stage of its own. Time that nobody computes in, such as waiting for PostgreSQL, isn't
counted at all. It costs about three parts in a hundred, reported as a stage too. Compiled functions are on no stack of
Python's; those that Python calls are given a function around them that is.

    python benchmarks/sampling.py FILE worker

runs `creditfold worker` and writes what it found to FILE when that ends.
"""

import gc
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import BuiltinFunctionType, FrameType, FunctionType
from typing import Any, NamedTuple

EVERY_S = 0.004

#: Stages by what a function's place begins with, which is its module and name; the first that fits counts, and the
#: innermost function of the stack that one fits.
STAGES: Sequence[tuple[str, str]] = (
    ("creditfold.processors.fold.chunk:read_records", "decode and check"),
    ("creditfold.processors.fold.chunk:read_one", "decode and check"),
    ("creditfold.processors.fold.fast:read", "decode and check"),
    # Its lines are made on the way.
    ("creditfold.processors.fold.fast:fold", "decide"),
    ("creditfold.processors.fold.chunk:_command", "decode and check"),
    ("creditfold.schemas.", "decode and check"),
    ("creditfold.ledger.validity:", "decode and check"),
    ("creditfold.ledger.credit_validity:", "decode and check"),
    ("creditfold.ledger.", "decide"),
    ("creditfold.processors.fold.chunk:", "decide"),
    ("creditfold.projections.store.chain:", "lines and chain"),
    ("creditfold.projections.", "rows and SQL"),
    ("creditfold.processors.fold.draft:", "lines and chain"),
    ("creditfold.processors.fold.id_filter:", "load and remember"),
    ("creditfold.processors.fold.account_cache:", "load and remember"),
    ("creditfold.processors.fold.transaction:", "load and remember"),
    ("psycopg", "psycopg"),
    ("creditfold.processors.worker.transport:", "Kafka and Faust"),
    ("aiokafka.", "Kafka and Faust"),
    ("kafka.", "Kafka and Faust"),
    ("faust.", "Kafka and Faust"),
    ("mode.", "Kafka and Faust"),
    ("creditfold.", "the worker's own"),
    ("sampling:", "this sampling"),
    ("__main__:Sampler.", "this sampling"),
    ("asyncio.", "event loop"),
    ("selectors:", "event loop"),
)
OTHER = "other"
START = "start-up"
GARBAGE = "garbage collection"


class Place(NamedTuple):
    """A function: its module and its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def stage_of(stack: Sequence[Place]) -> str:
    """The stage of a stack, whose innermost function comes first."""
    if any(place.module.startswith("importlib.") for place in stack):
        return START
    for place in stack:
        for start, stage in STAGES:
            if str(place).startswith(start):
                return stage
    return OTHER


class Sampler:
    """Counts CPU seconds by stage and by function, between start and stop."""

    def __init__(self) -> None:
        self.stages: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()
        self._used: dict[int, float] = {}
        self._collecting = 0, 0.0

    def start(self) -> None:
        """Begin. Only the main thread may."""
        signal.signal(signal.SIGPROF, self._sample)
        gc.callbacks.append(self._collect)
        self._count(None)
        self.stages.clear()
        self.functions.clear()
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def stop(self) -> None:
        """End."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        gc.callbacks.remove(self._collect)

    def report(self, commands: int, functions: int = 25) -> dict[str, Any]:
        """Microseconds a command by stage, and by the functions that took most, their callees left out."""
        return {
            "cpu_us_per_command": _per_command(self.stages, commands),
            "functions_us_per_command": _per_command(Counter(dict(self.functions.most_common(functions))), commands),
        }

    def _sample(self, number: int, frame: FrameType | None) -> None:
        self._count(frame)

    def _collect(self, phase: str, info: dict[str, int]) -> None:
        ident, used = threading.get_ident(), time.thread_time()
        if phase == "start":
            self._collecting = ident, used
            return
        taken = used - self._collecting[1]
        self._collecting = 0, 0.0
        self.stages[GARBAGE] += taken  # type: ignore[assignment]
        self.functions[f"gc of generation {info['generation']}"] += taken  # type: ignore[assignment]
        # As if that time hadn't been used, or the next sample would count it again.
        self._used[ident] = self._used.get(ident, 0.0) + taken

    def _count(self, interrupted: FrameType | None) -> None:
        main = threading.main_thread().ident
        for ident, frame in sys._current_frames().items():
            if ident == self._collecting[0]:
                continue  # Counted when it has done.
            try:
                used = time.clock_gettime(time.pthread_getcpuclockid(ident))
            except OSError:  # It has ended meanwhile.
                continue
            taken = used - self._used.get(ident, used)
            self._used[ident] = used
            if taken > 0:
                # The main thread is in this function now; where it was is what it was interrupted in.
                stack = list(_places(interrupted if ident == main and interrupted else frame))
                self.stages[stage_of(stack)] += taken  # type: ignore[assignment]
                self.functions[str(stack[0])] += taken  # type: ignore[assignment]
        # It may be this function's own, and would keep alive all that every function on the stack knows.
        del frame


def _places(frame: FrameType | None) -> Iterator[Place]:
    while frame is not None:
        yield Place(frame.f_globals.get("__name__", "?"), frame.f_code.co_qualname)
        frame = frame.f_back


def _per_command(seconds: Mapping[str, float], commands: int) -> dict[str, float]:
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return {name: round(value / max(commands, 1) * 1e6, 2) for name, value in ordered}


def name_compiled() -> None:
    """Put a function of Python's around each compiled one that a module of ours has imported, by the same name."""
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("creditfold.")]
    for module in ours:
        for name, value in list(vars(module).items()):
            if isinstance(value, BuiltinFunctionType) and str(value.__module__).startswith("creditfold."):
                setattr(module, name, _named(value))


def _named(compiled: BuiltinFunctionType) -> FunctionType:
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled(*args, **kwargs)

    code = call.__code__.replace(co_name=compiled.__name__, co_qualname=compiled.__qualname__)
    # A stack shows a function's module by its globals.
    return FunctionType(code, {"__name__": compiled.__module__}, compiled.__name__, None, call.__closure__)


@contextmanager
def sampled() -> Iterator[Sampler]:
    """Sample the block."""
    name_compiled()
    sampler = Sampler()
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.stop()


def main() -> None:
    """Run `creditfold` with the other arguments and write the seconds by stage and function when it ends."""
    target, sys.argv = Path(sys.argv[1]), ["creditfold", *sys.argv[2:]]
    from creditfold.cli.main import main as creditfold
    from creditfold.processors.worker import main as worker

    del worker

    try:
        with sampled() as sampler:
            creditfold()
    finally:
        found = {"stages_s": sampler.stages, "functions_s": dict(sampler.functions.most_common(100))}
        target.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
