"""A made-up next version of the rules, for tests: a spend of more than 10 is rejected. Also runs `creditfold` with it.

python tests/programs/rules_two.py worker     what `creditfold worker` of a later release would be
"""

from typing import Any

from creditfold.ledger import RULESETS, RejectionReason, Spend, decide_one
from creditfold.ledger.account import Account
from creditfold.ledger.decide import Answer

MOST = 10


def decide_two(account: Account, command: Any, clock_ms: int) -> Answer:
    """As rules 1, but for large spends."""
    if isinstance(command, Spend) and command.amount > MOST:
        return RejectionReason.INSUFFICIENT_CREDITS
    return decide_one(account, command, clock_ms)


# Processes that a rebuild starts import this file under the other name.
if __name__ in ("__main__", "__mp_main__"):
    RULESETS[2] = decide_two

if __name__ == "__main__":
    from creditfold.cli.main import main

    main()
