"""The `creditfold` command's entry: its subcommands, and what a failure looks like. Imports the heavy rooms late.

Exit codes: 0 done; 1 something failed; 2 a wrong argument or setting; 3 a command was rejected or a line was bad;
4 the fold hasn't got that far yet; 5 two results that should be equal differ; 130 interrupted; 141 nobody reads the
output any more.
"""

import contextlib
import errno
import logging
import os
import re
import signal
import sys
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

import typer

from creditfold.cli.append import commands, import_file, redrive, tick
from creditfold.cli.demo import command
from creditfold.cli.read import (
    accounts,
    balance,
    dead_letters,
    expiring,
    follow,
    history,
    lots,
    spent,
    statement,
    trace,
)
from creditfold.cli.rebuild import generations, rules, trial_balance, verify
from creditfold.cli.run import access, alerts, archive, doctor, keys, processes, servers, status, webhooks
from creditfold.cli.shared.output import OutputError, output_error, print_json, safe, written
from creditfold.cli.shared.places import placed
from creditfold.common.errors import CreditfoldError
from creditfold.common.extras import missing_extra

INTERRUPTED = 130
BROKEN_PIPE = 141
USAGE = 2

#: The variable by which a shell's completion script asks; click derives it from the command's name.
COMPLETION = "_CREDITFOLD_COMPLETE"

_APPEND = "Append commands"
_READ = "Read the ledger"
_RUN = "Run it"
_REBUILD = "Rebuild and prove it"
_KEEP = "Keep the log"

COMMANDS: list[tuple[str, str, Callable[..., Any]]] = [
    ("demo", _RUN, command.demo),
    ("up", _RUN, servers.up),
    ("down", _RUN, servers.down),
    ("init", _RUN, servers.init),
    ("worker", _RUN, processes.worker),
    ("publisher", _RUN, processes.publisher),
    ("delivery", _RUN, processes.delivery),
    ("serve", _RUN, processes.serve),
    ("keys create", _RUN, keys.keys_create),
    ("keys list", _RUN, keys.keys_list),
    ("keys rotate", _RUN, keys.keys_rotate),
    ("keys revoke", _RUN, keys.keys_revoke),
    ("webhooks create", _RUN, webhooks.webhooks_create),
    ("webhooks list", _RUN, webhooks.webhooks_list),
    ("webhooks show", _RUN, webhooks.webhooks_show),
    ("webhooks rotate", _RUN, webhooks.webhooks_rotate),
    ("webhooks disable", _RUN, webhooks.webhooks_disable),
    ("webhooks enable", _RUN, webhooks.webhooks_enable),
    ("webhooks delete", _RUN, webhooks.webhooks_delete),
    ("webhooks attempts", _RUN, webhooks.webhooks_attempts),
    ("webhooks resend", _RUN, webhooks.webhooks_resend),
    ("webhooks listen", _RUN, webhooks.webhooks_listen),
    ("alerts add", _RUN, alerts.alerts_add),
    ("alerts list", _RUN, alerts.alerts_list),
    ("alerts remove", _RUN, alerts.alerts_remove),
    ("status", _RUN, status.status),
    ("tick", _RUN, tick.tick),
    ("rebuild", _REBUILD, generations.rebuild),
    ("generations", _REBUILD, generations.generations),
    ("activate", _REBUILD, generations.activate),
    ("drop", _REBUILD, generations.drop),
    ("verify", _REBUILD, verify.verify),
    ("diff", _REBUILD, verify.diff),
    ("trial-balance", _REBUILD, trial_balance.trial_balance),
    ("rules list", _REBUILD, rules.rules_list),
    ("rules activate", _REBUILD, rules.rules_activate),
    ("doctor", _RUN, doctor.doctor),
    ("grant", _APPEND, commands.grant),
    ("spend", _APPEND, commands.spend),
    ("hold", _APPEND, commands.hold),
    ("capture", _APPEND, commands.capture),
    ("release", _APPEND, commands.release),
    ("refund", _APPEND, commands.refund),
    ("void", _APPEND, commands.void),
    ("transfer", _APPEND, commands.transfer),
    ("freeze", _APPEND, commands.freeze),
    ("unfreeze", _APPEND, commands.unfreeze),
    ("close", _APPEND, commands.close),
    ("credit-limit", _APPEND, commands.credit_limit),
    ("schedule create", _APPEND, commands.schedule_create),
    ("schedule cancel", _APPEND, commands.schedule_cancel),
    ("batch", _APPEND, commands.batch),
    ("import", _APPEND, import_file.import_),
    ("balance", _READ, balance.balance),
    ("accounts", _READ, accounts.accounts),
    ("history", _READ, history.history),
    ("statement", _READ, statement.statement),
    ("expiring", _READ, expiring.expiring),
    ("ended", _READ, spent.ended),
    ("spent", _READ, spent.spent),
    ("lots", _READ, lots.lots),
    ("holds", _READ, lots.holds),
    ("transfers", _READ, lots.transfers),
    ("schedules", _READ, lots.schedules),
    ("trace", _READ, trace.trace),
    ("why", _READ, trace.why),
    ("rejections", _READ, history.rejections),
    ("dsn", _READ, access.dsn),
    ("psql", _READ, access.psql),
    ("follow", _READ, follow.follow),
    ("dead-letters list", _READ, dead_letters.dead_letters),
    ("dead-letters show", _READ, dead_letters.dead_letter),
    ("archive", _KEEP, archive.archive),
    ("restore", _KEEP, archive.restore),
    ("dead-letters redrive", _READ, redrive.redrive),
    ("dead-letters discard", _READ, redrive.discard),
]

#: The panel and the help of commands of two words, by the first word.
GROUPS = {
    "schedule": (_APPEND, "Grant credits periodically, and end that."),
    "dead-letters": (_READ, "See the records that can't be folded, and mend them."),
    "keys": (_RUN, "Make the keys that open the HTTP door, and take them back."),
    "alerts": (_RUN, "Have endpoints hear of accounts that run low, and of credits that end soon."),
    "webhooks": (_RUN, "Have endpoints called when something is decided, and send it again."),
    "rules": (_REBUILD, "See which version of the rules is in force, and bring another into force."),
}

#: Commands whose arguments are another program's.
CONTEXTS = {"psql": {"allow_extra_args": True, "ignore_unknown_options": True}}


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from creditfold.common.core import running_core

        core = running_core()
        print(f"creditfold {version('creditfold')}, {'compiled core' if core.is_compiled else core.name}")
        if core.warning:
            print(f"warning: {core.warning}", file=sys.stderr)
        raise typer.Exit


def creditfold(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """An event-sourced ledger for closed virtual currencies: Kafka is the truth, PostgreSQL the projection.

    \b
    First steps, on this machine:
      creditfold up --worker       start Kafka, PostgreSQL and a worker
      creditfold grant alice 500   give credits, see the new balance
      creditfold spend alice 120   take credits
      creditfold history alice     see every decision, the rejected ones too
      creditfold status            see how far the fold is
      creditfold down              stop everything; the data stays

    Settings come from the environment, CREDITFOLD_..., else from the data folder.
    docs/settings.md lists them. Each command has --help.
    """


def command_line(of: str = "") -> typer.Typer:
    """The command line, of the commands alone whose first word is this; of all where it is none's."""
    app = typer.Typer(
        name="creditfold",
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(creditfold)
    groups: dict[str, typer.Typer] = {}
    for name, panel, function in [one for one in COMMANDS if one[0].partition(" ")[0] == of] or COMMANDS:
        first, _, second = name.partition(" ")
        if not second:
            context = CONTEXTS.get(name)
            app.command(name, rich_help_panel=panel, no_args_is_help=False, context_settings=context)(function)
            continue
        if first not in groups:
            groups[first] = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
            its_panel, text = GROUPS[first]
            app.add_typer(groups[first], name=first, help=text, rich_help_panel=its_panel)
        groups[first].command(second)(function)
    return app


def main() -> None:
    """Run the command line and exit with its code."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Ids may hold what the terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")
    # Our errors say what went wrong: log lines of ours would only repeat it, and psycopg's speak of the clean-up of a
    # connection that an interrupt or a lost server broke off.
    for library in ("creditfold", "psycopg"):
        logging.getLogger(library).addHandler(logging.NullHandler())
    _show_setting_warnings()
    if COMPLETION in os.environ:
        # A shell asks what could stand at the cursor, or for the script by which it asks.
        command_line()(prog_name="creditfold")
    code = _run(sys.argv[1:])
    # What is left is the interpreter's own end, in which an interrupt would be a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(code)


def _open_closed_streams() -> None:
    # Started with `>&-`: what is printed goes nowhere, and the work is done all the same.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - Open as long as the process.
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - Open as long as the process.


def _show_setting_warnings() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger = logging.getLogger("creditfold.common.settings")
    logger.addHandler(handler)
    # A worker's log has handlers of its own.
    logger.propagate = False


def _run(arguments: list[str]) -> int:
    as_json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    try:
        code = _invoke(arguments or ["--help"])
        with written():
            # What typer prints by itself, help and the like, is still buffered.
            return code
    except CreditfoldError as error:
        return _failed(error, as_json)
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        return _failed(missing, as_json)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        # Help is printed by a library; an error about a file of ours would name it.
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        return _failed(output_error(error), as_json)
    except Exception as error:
        known = _state_of_a_server(error)
        if known is not None:
            return _failed(known, as_json)
        # Typer raises its usage errors from a class that only its private modules name.
        if not hasattr(error, "format_message"):
            raise
        message, remedy = _usage(error)
        _report(message, remedy, USAGE, as_json)
        return USAGE


def _state_of_a_server(error: Exception) -> CreditfoldError | None:
    """The error of ours for a client library's error that is a server's state and that no room has explained."""
    # The library is loaded where it raised the error; loading one for any other error would only take time.
    library = type(error).__module__.partition(".")[0]
    if library in ("psycopg", "psycopg_pool"):
        from creditfold.projections import failures

        return failures.explained(error)
    if library in ("cimpl", "confluent_kafka") and error.args and hasattr(error.args[0], "code"):
        from creditfold.common import settings
        from creditfold.log import admin

        return admin.explained(error.args[0], settings.load_settings().kafka_bootstrap)
    return None


@cache
def _root(of: str) -> Any:
    # Commands with their options are made of their functions, which takes longer than most of them do: of all, it would
    # be as long as to import them.
    return typer.main.get_command(command_line(of))


def _invoke(arguments: list[str]) -> int:
    root = _root(arguments[0])
    # Not by calling the app, which would make Ctrl-C and a closed pipe into exits of its own.
    try:
        with root.make_context("creditfold", arguments) as context:
            root.invoke(context)
    except typer.Exit as ending:
        return ending.exit_code
    return 0


def _failed(error: CreditfoldError, as_json: bool) -> int:
    if isinstance(error, OutputError):
        _drop_output()
    message, remedy = placed(error)
    _report(message, remedy, error.exit_code, as_json)
    return error.exit_code


def _drop_output() -> None:
    """Discard what is still buffered, so that it doesn't fail a second time at the exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


#: Which command an amount below zero was probably meant for.
_OPPOSITES = {
    "grant": "To take credits: creditfold spend; to take a grant back: creditfold void. ",
    "spend": "To give credits: creditfold grant; to give a spend back: creditfold refund. ",
}


def _usage(error: Any) -> tuple[str, str]:
    message = str(error.format_message()).strip()
    if not message.endswith(("?", "!")):
        message = message.rstrip(".") + "."
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "creditfold"
    params = context.command.params if context else []
    taken = [param.name.upper() for param in params if param.param_type_name == "argument"]
    option = str(getattr(error, "option_name", ""))
    if "AMOUNT" in taken and re.match(r"-[0-9]", option):
        return (
            f"{option} can't be an amount: amounts are whole numbers from 1 on, without a sign.",
            f"{_OPPOSITES.get(path.split()[-1], '')}An account or id that begins with a dash stands behind --: "
            f"{path} -- {' '.join(taken)}",
        )
    if taken and re.match(r"-[^-]", option):
        # Most often an account or an amount that begins with a dash.
        return message, f"Write -- before an argument that begins with a dash: {path} -- {' '.join(taken)}"
    return message, f"{path} --help"


def _report(message: str, remedy: str, code: int, as_json: bool) -> None:
    if as_json:
        print_json({"error": message, "try": remedy, "exit_code": code}, sys.stderr)
        return
    # The tail of a server's log comes in several lines.
    print("error: " + "\n".join(safe(line) for line in message.splitlines()), file=sys.stderr)
    if remedy:
        print(f"try: {safe(remedy)}", file=sys.stderr)


if __name__ == "__main__":
    main()
