"""The console script's entry: ends quietly on Ctrl-C while the command line is still being imported.

Names the extra to install where the command line's isn't, and the core that was asked for where it can't be run.
Imports nothing heavy, nothing that an extra brings and nothing that may be compiled, and knows no command.
"""

import signal
import sys

USAGE = 2


def main() -> None:
    """Import the command line and run it.

    Exits with 1 and the extra to install where a library is missing, with 2 where CREDITFOLD_CORE asks for a core that
    there isn't.
    """
    # Importing takes a good part of a second, in which an interrupt would be a traceback of what was being imported.
    # Ended by the signal itself, a shell sees what it expects. Who started us with SIGINT ignored keeps it ignored.
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from creditfold.common.extras import missing_extra
    except ImportError as error:
        # A checkout's, whose class only an editable install knows.
        if not hasattr(error, "remedy"):
            raise
        print(f"error: {error.why}\ntry: {error.remedy}", file=sys.stderr)  # type: ignore[attr-defined]
        sys.exit(USAGE)
    try:
        from creditfold.cli.main import main as run
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        sys.exit(f"error: {missing.message}\ntry: {missing.remedy}")
    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
