"""Facts as JSON, as the journal keeps them, and back: what is read is what was written, so that it can be replayed."""

import json
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any, Final

from creditfold.ledger.commands import Terms
from creditfold.ledger.facts import PARTICULARS, Bucket, Fact, FactKind, LotId, Move

#: A text as JSON.
_quoted: Final = encode_basestring


def facts_as_json(facts: Sequence[Fact], asset: str = "") -> str:
    """Facts as the journal keeps them. A move is [lot's command, lot's number, source, target, amount].

    The lot's command is empty where the move is of debt, which belongs to no lot; an asset is named where it isn't the
    one given, terms where a lot was made, particulars by their names where they aren't empty.
    """
    # As what is rejected has.
    return f"[{','.join([_fact(fact, asset) for fact in facts])}]" if facts else "[]"


def _fact(fact: Fact, asset: str) -> str:
    # Put together by hand, which takes a fifth of the time: there is a fact to each command.
    terms = fact.terms
    found = f'{{"kind":"{fact.kind}","at":{fact.at_ms},"ref":{_quoted(fact.ref)}'
    if fact.asset != asset:
        found += f',"asset":{_quoted(fact.asset)}'
    if fact.detail:
        found += f',"detail":{_quoted(fact.detail)}'
    if fact.particulars:
        found += _particulars(fact.kind, fact.particulars)
    if fact.moves:
        found += f',"moves":[{",".join([_move(move) for move in fact.moves])}]'
    if terms is not None:
        lot_class, priority, effective_at, expires_at, scope = terms
        found += f',"terms":{{"lot_class":"{lot_class}","priority":{priority},"effective_at":{effective_at}'
        found += f',"expires_at":{expires_at},"scope":{_quoted(scope)}}}'
    return found + "}"


def _particulars(kind: FactKind, values: tuple[Any, ...]) -> str:
    found = ""
    for name, value in zip(PARTICULARS[kind], values, strict=True):
        if not value:
            continue
        if isinstance(value, str):
            found += f',"{name}":{_quoted(value)}'
        elif isinstance(value, tuple):
            found += f',"{name}":[{",".join(map(str, value))}]'
        else:
            found += f',"{name}":{value}'
    return found


def _move(move: Move) -> str:
    lot = move.lot
    of = '"",0' if lot is None else f"{_quoted(lot[0])},{lot[1]}"
    return f'[{of},"{move.source}","{move.target}",{move.amount}]'


def facts_of_json(text: str, asset: str = "") -> list[Fact]:
    """Facts from the journal, for a line of this asset."""
    return [_read(row, asset) for row in json.loads(text)]


def _read(row: dict[str, Any], asset: str) -> Fact:
    kind, terms = FactKind(row["kind"]), row.get("terms")
    names = PARTICULARS.get(kind, ())
    particulars: tuple[Any, ...] = ()
    if any(name in row for name in names):
        particulars = tuple([_particular(name, row.get(name)) for name in names])
    return Fact(
        kind,
        row["at"],
        row.get("asset", asset),
        row["ref"],
        tuple([_read_move(*move) for move in row.get("moves", ())]),
        None if terms is None else Terms(**terms),
        row.get("detail", ""),
        particulars,
    )


def _particular(name: str, value: Any) -> Any:
    if value is None:
        return "" if name in _TEXTS else 0
    return tuple(value) if isinstance(value, list) else value


#: Particulars that are texts; the others are numbers.
_TEXTS = ("spend", "transfer", "to", "period", "lot_class", "scope")


def _read_move(command_id: str, number: int, source: str, target: str, amount: int) -> Move:
    lot = LotId(command_id, number) if command_id else None
    return Move(lot, Bucket(source), Bucket(target), amount)
