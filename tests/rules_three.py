"""A third version of the rules, for tests: a spend of more than 10 is rejected. Also runs `creditfold` with it.

python tests/rules_three.py worker     what `creditfold worker` of a later release would be
"""

from creditfold.ledger import RULESETS, Account, Grant, Outcome, Rejected, RejectionReason, Spend, decide

MOST = 10


def decide_three(state: Account, command: Grant | Spend) -> Outcome:
    """As rules 1, not 2, but for large spends."""
    outcome = decide(state, command)._replace(rules=3)
    if isinstance(command, Spend) and command.amount > MOST:
        balance = state.available.get(command.asset, 0)
        return Rejected(command.asset, RejectionReason.INSUFFICIENT_CREDITS, balance, outcome.version, 3)
    return outcome


# Processes that a rebuild starts import this file under the other name.
if __name__ in ("__main__", "__mp_main__"):
    RULESETS[3] = decide_three

if __name__ == "__main__":
    from creditfold.cli.main import main

    main()
