"""The commands that run or check a process: worker, publisher, delivery, serve. Owns their options, not their work."""

from typing import TYPE_CHECKING, Annotated

import typer

from creditfold.cli.shared.arguments import ArgumentError
from creditfold.cli.shared.output import say

if TYPE_CHECKING:
    from creditfold.projections.queries.heartbeats import Role

CheckOption = Annotated[
    bool, typer.Option("--check", help="Run none; exit with 1 unless the one on this machine is well.")
]
LiveOption = Annotated[bool, typer.Option("--live", help="With --check: fail only for what a restart may mend.")]
JsonLogsOption = Annotated[bool, typer.Option("--json-logs", help="Log one JSON object a line.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log the libraries' own lines too.")]


def worker(
    check: CheckOption = False,
    live: LiveOption = False,
    json_logs: JsonLogsOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Fold the log into balances until it is stopped (Ctrl-C or SIGTERM).

    Run as many as you like: they share the partitions. It waits while Kafka or PostgreSQL is away.

    \b
    Examples:
      creditfold worker
      creditfold worker --json-logs
      creditfold worker --check           for a readiness probe
      creditfold worker --check --live    for a liveness probe
    """
    from creditfold.common.settings import load_settings

    if _is_checked("worker", check=check, live=live):
        return
    from creditfold.processors.worker.main import run_worker

    run_worker(load_settings(), json_logs=json_logs, verbose=verbose)


def publisher(
    check: CheckOption = False,
    live: LiveOption = False,
    json_logs: JsonLogsOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Publish outcomes and dead letters to their topics until it is stopped (Ctrl-C or SIGTERM).

    Copies what the fold decided, once and in order. Run as many as you like: they share the partitions. It waits
    while Kafka or PostgreSQL is away.

    \b
    Examples:
      creditfold publisher
      creditfold publisher --json-logs
      creditfold publisher --check           for a readiness probe
      creditfold publisher --check --live    for a liveness probe
    """
    from creditfold.common.settings import load_settings

    if _is_checked("publisher", check=check, live=live):
        return
    from creditfold.processors.publisher.main import run_publisher

    run_publisher(load_settings(), json_logs=json_logs, verbose=verbose)


def delivery(
    check: CheckOption = False,
    live: LiveOption = False,
    json_logs: JsonLogsOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Deliver webhooks to their endpoints until it is stopped (Ctrl-C or SIGTERM).

    Follows what the fold decided, and calls each endpoint about it in the order of its accounts. Of several, one
    delivers and the others stand by. It waits while PostgreSQL is away.

    \b
    Examples:
      creditfold delivery
      creditfold delivery --json-logs
      creditfold delivery --check           for a readiness probe
      creditfold delivery --check --live    for a liveness probe
    """
    from creditfold.common.extras import require
    from creditfold.common.settings import load_settings

    if _is_checked("delivery", check=check, live=live):
        return
    require("delivery")
    from creditfold.delivery.main import run_delivery

    run_delivery(load_settings(), json_logs=json_logs, verbose=verbose)


def serve(
    *,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on; by default the setting api_host, loopback.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65_535, help="Port; by default the setting api_port.")
    ] = None,
    insecure_local: Annotated[
        bool, typer.Option("--insecure-local", help="Serve requests without a key too; on loopback only.")
    ] = False,
    check: CheckOption = False,
    live: LiveOption = False,
    json_logs: JsonLogsOption = False,
) -> None:
    """Serve HTTP: append, read, preview and follow, from any language.

    Each request needs a key (`creditfold keys create`). It serves while Kafka or PostgreSQL is away, and answers then
    with a problem that says so.

    \b
    Examples:
      creditfold serve
      creditfold serve --insecure-local     for a machine of one's own, without keys
      creditfold serve --port 8080 --json-logs
      creditfold serve --check              for a readiness probe
      creditfold serve --check --live       for a liveness probe
    """
    from creditfold.common.extras import require

    require("api")
    from creditfold.api.requests import is_loopback
    from creditfold.api.server import serve as run
    from creditfold.common.logging import configure_logging
    from creditfold.common.settings import load_settings
    from creditfold.console.app import install

    settings = load_settings()
    given = {"api_host": host, "api_port": port}
    settings = settings.model_copy(update={name: value for name, value in given.items() if value is not None})
    _refuse_live_alone("serve", check=check, live=live)
    if check:
        from creditfold.processors.door import refuse_unready

        say(refuse_unready(settings, live=live))
        return
    if insecure_local and not is_loopback(settings.api_host):
        raise ArgumentError(
            f"--insecure-local on {settings.api_host} would let everybody on the network do everything.",
            "Listen on 127.0.0.1, or leave --insecure-local out and make keys.",
        )
    configure_logging(json_logs=json_logs, verbose=False)
    run(settings, is_open=insecure_local, install=install)


def _is_checked(process: "Role", *, check: bool, live: bool) -> bool:
    """Check this machine's process where that is asked for, and return whether it was."""
    _refuse_live_alone(process, check=check, live=live)
    if check:
        from creditfold.common.settings import load_settings
        from creditfold.processors.status import check_machine

        say(check_machine(load_settings(), process, live=live))
    return check


def _refuse_live_alone(command: str, *, check: bool, live: bool) -> None:
    if live and not check:
        raise ArgumentError("--live belongs to --check.", f"Write: creditfold {command} --check --live")
