"""Which rules there are, and what folds by them: a `Book` where they know balances only, else a `CreditBook`."""

from typing import TypeAlias, cast

from creditfold.ledger.account import Account
from creditfold.ledger.book import CREDIT_RULES, CreditBook
from creditfold.ledger.decisions import RULESETS
from creditfold.ledger.decisions import Account as PlainAccount
from creditfold.ledger.folding import Book, Known, UnknownRulesError, Verdict

AnyBook: TypeAlias = Book | CreditBook
Accounts: TypeAlias = dict[str, PlainAccount] | dict[str, Account]


def known_rules() -> list[int]:
    """Every version of the rules that this release has, the oldest first."""
    return sorted([*RULESETS, CREDIT_RULES])


def knows_lots(rules: int) -> bool:
    """Whether a version of the rules folds credits, and not balances only."""
    return rules == CREDIT_RULES


def open_book(
    rules: int, accounts: Accounts, known: Known, clock_ms: int = 0, minute: int = 0, *, forced: bool = False
) -> AnyBook:
    """A book for a version of the rules; the arguments are those of the books. Raises UnknownRulesError."""
    if knows_lots(rules):
        return CreditBook(accounts, known, clock_ms, minute, forced=forced)
    return Book(cast(dict[str, PlainAccount], accounts), known, clock_ms, rules, forced=forced)


def activated(book: AnyBook, rules: int) -> tuple[AnyBook, Verdict | None]:
    """Bring a version of the rules into force: gives the book to go on with, and None when that changed them.

    Raises UnknownRulesError.
    """
    if book.forced or rules == book.rules:
        return book, Verdict.DUPLICATE
    if rules < book.rules:
        return book, Verdict.RULES_NOT_NEWER
    if isinstance(book, CreditBook):
        raise UnknownRulesError(rules)
    return open_book(rules, book.accounts, book.known, book.clock_ms), None
