"""How long each page of the console takes over a long journal, and how large it is.

    python benchmarks/console.py --lines 1000000

Folds some thousand commands: of an account with many holds, one with many assets, one that sends transfers, which
nobody brings to their ends, of an order, and records that are no commands. Writes lines of the journal for 90,000
accounts and one that has a tenth of all, with 5,000 live lots, into the tables. Logs in to `creditfold serve`
and loads each page several times by a new connection. A page is to take less than 200 ms and 100,000 bytes. What reads
the whole journal or all live lots is worked out apart from its page: that is timed once, from the first time that the
page is asked for until it has the sums.
"""

import json
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import httpx
import psycopg
from load import DAY_MS
from questions import BUSY, append_noise, door, fold
from rich.table import Table
from rig import argument_parser, console, ledger, servers

from creditfold.common.settings import Settings
from creditfold.producers import Command, CommandProducer, Grant, Hold, Spend, Transfer
from creditfold.projections.connections import connected

#: Milliseconds and bytes that a page may take.
BOUND_MS, BOUND_BYTES = 200.0, 100_000
HOLDER, SENDER, RICH, USUAL = "holder", "sender", "rich", "user-7"
HOLDS, TRANSFERS, ASSETS, NOISE = 1_000, 1_000, 500, 1_000
ACCOUNTS = 100_000

#: Line for line a grant and a spend of its lot, of which one in five is refused.
FILL = """
    CREATE TEMP TABLE many AS
        SELECT n, name, k, step, 'c-' || n AS id, 'c-' || n - step AS before, k % 2 = 1 AS is_grant,
               k % 10 = 4 AS is_refused,
               -- Of the account with a tenth of all the last 5,000 lots, of the others all.
               n % 10 > 0 OR {accounts} + {lines} - n <= 100000 AS is_live,
               {now} - ({lines} - n) * 10 AS at, {now} + {day} * (n % 365 + 1) AS ends
        FROM generate_series({accounts}::bigint, {accounts}::bigint + {lines} - 1) n
        CROSS JOIN LATERAL (SELECT CASE WHEN n % 10 = 0 THEN 10 ELSE {accounts} END AS step) s
        CROSS JOIN LATERAL (
            SELECT CASE WHEN n % 10 = 0 THEN '{busy}' ELSE 'user-' || n % {accounts} END AS name,
                   CASE WHEN n % 10 = 0 THEN (n - {accounts}) / 10 + 1 ELSE n / {accounts} END AS k
        ) a;
    INSERT INTO ledger_0001.journal
        SELECT {accounts} + n, k, CASE WHEN is_grant THEN 50 ELSE 20 END,
               CASE WHEN is_grant THEN 50 WHEN is_refused THEN 0 ELSE -20 END, 30 * k, at, 0, 0, 0, 0, 0, 1, NULL,
               name, id, CASE WHEN is_grant THEN 'grant' ELSE 'spend' END, 'credits',
               CASE WHEN is_refused THEN 'insufficient_credits' END, 'service-' || n % 5, 'reason ' || n % 10, '', '',
               CASE WHEN is_refused THEN '[]'
                    WHEN is_grant THEN '[{{"kind":"granted","at":' || at || ',"asset":"credits","ref":"' || id ||
                         '","terms":{{"lot_class":"paid","priority":50,"effective_at":0,"expires_at":' || ends ||
                         ',"scope":""}},"moves":[["' || id || '",1,"issued","remaining",50]]}}]'
                    ELSE '[{{"kind":"spent","at":' || at || ',"ref":"' || id || '","moves":[["' || before ||
                         '",1,"remaining","spent",20]]}}]' END
        FROM many;
    INSERT INTO ledger_0001.lots
        SELECT 0, ends, {accounts} + n, 50, CASE WHEN is_live THEN 30 ELSE 0 END, 0,
               CASE WHEN is_live THEN 20 ELSE 50 END, 0, 0, 0, 0, 0, CASE WHEN is_live THEN ends END,
               -- The next line spends of it, unless that is refused.
               {accounts} + CASE WHEN k % 10 = 3 OR n + step >= {accounts} + {lines} THEN n ELSE n + step END,
               1, 0, 50, false, false, false, is_live, name, id, 'credits',
               CASE WHEN n % 3 = 0 THEN 'promo' ELSE 'paid' END, '', 'issued'
        FROM many WHERE is_grant;
    -- Of one lot something changes in the last line.
    UPDATE ledger_0001.lots SET log_offset = 2 * {accounts} + {lines} - 1
        WHERE (account_id, command_id) IN (SELECT name, id FROM many WHERE name = '{busy}' AND k = 11);
    INSERT INTO ledger_0001.balances (available, version, log_offset, next_at_ms, log_partition, account_id, asset)
        SELECT 30 * count(*) FILTER (WHERE is_grant AND is_live), max(k), {accounts} + max(n), NULL, 0, name, 'credits'
        FROM many GROUP BY name;
"""


class Figures(NamedTuple):
    """Milliseconds of a page: the first time, the median and the most of the others; and its bytes."""

    first_ms: float
    half_ms: float
    most_ms: float
    bytes: int


def others() -> Iterator[Command]:
    """Commands of accounts with much of one thing."""
    ends = int(time.time() * 1000) + 30 * DAY_MS
    for account in (HOLDER, SENDER):
        yield Grant(command_id=f"{account}-g", account=account, asset="credits", amount=1_000_000)
    for n in range(HOLDS):
        yield Hold(command_id=f"hold-{n}", account=HOLDER, asset="credits", amount=5, deadline=ends)
    for n in range(TRANSFERS):
        yield Transfer(command_id=f"sent-{n}", account=SENDER, asset="credits", amount=5, to=f"user-{n}")
    for n in range(ASSETS):
        yield Grant(command_id=f"rich-{n}", account=RICH, asset=f"asset-{n:03}", amount=50, expires_at=ends)
    yield Grant(command_id="ann-g", account="ann", asset="credits", amount=500, expires_at=ends)
    yield Spend(command_id="ann-s", account="ann", asset="credits", amount=5, metadata={"order": "A-17"})


def make(own: Settings, lines: int) -> None:
    """Fold the commands, and write so many lines besides."""
    with CommandProducer(own.kafka_client, own.commands_topic) as producer:
        producer.append_many(others())
        producer.flush()
    append_noise(own, NOISE)
    fold(own)
    fill = FILL.format(lines=lines, accounts=ACCOUNTS, busy=BUSY, now=int(time.time() * 1000), day=DAY_MS)
    with psycopg.connect(own.dsn, autocommit=True) as connection, console.status(f"writing {lines:,} lines"):
        connection.execute(fill.encode(), binary=False)
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def pages(own: Settings) -> dict[str, str]:
    """The path of each kind of page, by what is on it."""
    with connected(own.dsn) as connection:

        def one(text: str) -> Any:
            row: Any = connection.execute(text.encode()).fetchone()
            return row[0]

        of_busy = f"SELECT command_id FROM ledger.journal WHERE account_id = '{BUSY}' AND kind = "
        grant, spend = (one(f"{of_busy} '{kind}' AND accepted ORDER BY version LIMIT 1") for kind in ("grant", "spend"))
        long = one(f"{of_busy} 'grant' AND version = 11")
        refused = one(f"{of_busy} 'spend' AND NOT accepted LIMIT 1")
        latest = one(f"SELECT max(version) FROM ledger.journal WHERE account_id = '{BUSY}'")
        letter = one("SELECT log_partition || ':' || log_offset FROM ledger.dead_letters LIMIT 1")
    busy = f"/console/accounts/{BUSY}"
    return {
        "login": "/console/login",
        "search: nothing": "/console",
        "search: a beginning that 90,000 names have": "/console?q=user-",
        "search: an account": f"/console?q={USUAL}",
        "search: a command": f"/console?q={spend}",
        "search: an order": "/console?q=A-17",
        "account: like most": f"/console/accounts/{USUAL}",
        "account: 100,000 lines, 5,000 live lots": busy,
        "account: the same, from its middle on": f"{busy}?before={latest // 2}",
        f"account: {HOLDS:,} holds": f"/console/accounts/{HOLDER}",
        f"account: {TRANSFERS:,} transfers on their way": f"/console/accounts/{SENDER}",
        f"account: {ASSETS} assets": f"/console/accounts/{RICH}",
        "account: unknown": "/console/accounts/nobody",
        "why: accepted": f"{busy}/commands/{spend}",
        "why: refused": f"{busy}/commands/{refused}",
        "trace: of a spend that 100,000 lines follow": f"{busy}/commands/{spend}/trace",
        "trace: of a grant that 100,000 lines follow": f"{busy}/commands/{grant}/trace",
        "trace: of a grant whose lot changes 100,000 lines later": f"{busy}/commands/{long}/trace",
        "trace: of what all holds were taken from": f"/console/accounts/{HOLDER}/commands/{HOLDER}-g/trace",
        "line": f"{busy}/lines/{latest // 2}",
        "help: the form of a grant": f"{busy}/grant?asset=credits",
        "books": "/console/books",
        "books: by class (all live lots)": "/console/books/classes",
        "books: what ends in which month (all live lots)": "/console/books/ending",
        "books: trial balance (the whole journal)": "/console/books/proof",
        "operation": "/console/operation",
        "transfers in transit": "/console/transfers",
        "transfers in transit, behind 500": "/console/transfers?after=",
        "dead letter": f"/console/dead-letters/{letter}",
        "record of the log": f"/console/log/{letter.replace(':', '/')}",
        "generation": "/console/generations/1",
        "rebuild": "/console/rebuild",
        "rules": "/console/rules",
    }


#: Those that show what is worked out apart from them, and what they say while it is.
WHOLE, UNDER_WAY = ("books: by class", "books: what ends", "books: trial"), "being worked out"


def measured(own: Settings, rounds: int) -> dict[str, Figures]:
    """The figures of each page."""
    found = pages(own)
    with connected(own.dsn) as connection:
        row: Any = connection.execute(
            "SELECT log_partition || ':' || log_offset FROM ledger.transfers WHERE is_open "
            "ORDER BY log_partition, log_offset OFFSET 500 LIMIT 1"
        ).fetchone()
    found["transfers in transit, behind 500"] += row[0] if row else "0:0"
    with door(own) as connection, httpx.Client(trust_env=False, timeout=120) as client:
        client.base_url = f"http://{connection.host}:{connection.port}"
        log_in(client)
        figures = {}
        for name, path in found.items():
            with console.status(name):
                if name.startswith(WHOLE):
                    figures[f"{name}, until it is there"] = worked_out(client, path)
                figures[name] = timed(client, path, rounds)
        with console.status("preview"):
            figures["help: the preview of a grant to an account with many lots"] = previewed(client, rounds)
    return figures


def log_in(client: httpx.Client) -> None:
    """Begin a session at a door without keys."""
    token = token_of(client.get("/console/login").text)
    answer = client.post("/console/login", data={"csrf_token": token, "key": ""})
    if answer.status_code != 303:
        raise SystemExit(f"the login was answered with {answer.status_code}")


def token_of(page: str) -> str:
    """The token of a page's forms."""
    (token, *_) = re.findall(r'name="csrf_token" value="(\w+)"', page)
    return str(token)


def timed(client: httpx.Client, path: str, rounds: int) -> Figures:
    """The figures of a page that is loaded again and again."""
    return _figures(rounds, lambda: client.get(path))


def worked_out(client: httpx.Client, path: str) -> Figures:
    """How long it takes until a page has what is worked out apart from it."""
    began = time.perf_counter()
    while UNDER_WAY in (text := client.get(path).text):
        time.sleep(0.01)
    taken = round((time.perf_counter() - began) * 1e3, 1)
    return Figures(taken, taken, taken, len(text.encode()))


def previewed(client: httpx.Client, rounds: int) -> Figures:
    """The figures of a preview."""
    path = f"/console/accounts/{BUSY}/grant"
    fields = {"csrf_token": token_of(client.get(path).text), "asset": "credits", "amount": "5", "lot_class": "promo"}
    return _figures(rounds, lambda: client.post(path, data={**fields, "reason": "r", "action": "preview"}))


def _figures(rounds: int, ask: Any) -> Figures:
    taken, size = [], 0
    for _ in range(rounds + 1):
        began = time.perf_counter()
        answer = ask()
        taken.append((time.perf_counter() - began) * 1e3)
        size = len(answer.content)
        if answer.status_code not in (200, 404):
            raise SystemExit(f"{answer.url} was answered with {answer.status_code}: {answer.text[:500]}")
    half, most = statistics.median(taken[1:]), max(taken[1:])
    return Figures(round(taken[0], 1), round(half, 1), round(most, 1), size)


def beyond(figures: Mapping[str, Figures]) -> list[str]:
    """The pages that take more than they may."""
    return [
        name
        for name, one in figures.items()
        if one.bytes > BOUND_BYTES or (one.half_ms > BOUND_MS and not name.endswith("until it is there"))
    ]


def main() -> None:
    """Run the benchmark and print it as a table, or as JSON."""
    parser = argument_parser(__doc__, lines=1_000_000, rounds=20)
    options = parser.parse_args()
    with servers() as settings, ledger(settings, "console", partitions=4, searchable_metadata="order") as own:
        make(own, options.lines)
        with connected(own.dsn) as connection:
            (lines,) = connection.execute("SELECT count(*) FROM ledger.journal").fetchone() or (0,)
            (lots,) = connection.execute("SELECT count(*) FROM ledger.lots WHERE is_live").fetchone() or (0,)
        figures = measured(own, options.rounds)
    if options.json:
        found = {name: one._asdict() for name, one in figures.items()}
        print(json.dumps({"lines": lines, "live_lots": lots, "pages": found}))
        return
    table = Table("page", "first, ms", "half, ms", "most, ms", "bytes", title=f"{lines:,} lines, {lots:,} live lots")
    for name, one in figures.items():
        table.add_row(name, *(f"{value:,}" for value in one))
    console.print(table)
    for name in beyond(figures):
        console.print(f"more than it may take: {name}")


if __name__ == "__main__":
    main()
