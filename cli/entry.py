"""The console script's entry: ends quietly on Ctrl-C while the command line is still being imported.

Imports nothing heavy, and knows no command.
"""

import signal


def main() -> None:
    """Import the command line and run it."""
    # Importing takes a good part of a second, in which an interrupt would be a traceback of what was being imported.
    # Ended by the signal itself, a shell sees what it expects. Who started us with SIGINT ignored keeps it ignored.
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from creditfold.cli.main import main as run

    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
