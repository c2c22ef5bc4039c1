"""A second version of the rules, for tests: a spend of more than 10 is rejected. Also runs `creditfold` with it.

python tests/rules_two.py worker     what `creditfold worker` of a later release would be
"""

from creditfold.ledger import RULESETS, Account, Command, Outcome, Rejected, RejectionReason, Spend, decide

MOST = 10


def decide_two(state: Account, command: Command) -> Outcome:
    """As rules 1, but for large spends."""
    outcome = decide(state, command)._replace(rules=2)
    if isinstance(command, Spend) and command.amount > MOST:
        balance = state.available.get(command.asset, 0)
        return Rejected(command.asset, RejectionReason.INSUFFICIENT_CREDITS, balance, outcome.version, 2)
    return outcome


# Processes that a rebuild starts import this file under the other name.
if __name__ in ("__main__", "__mp_main__"):
    RULESETS[2] = decide_two

if __name__ == "__main__":
    from creditfold.cli.main import main

    main()
