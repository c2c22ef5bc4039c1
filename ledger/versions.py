"""Which versions of the rules there are, and what each decides.

A replay decides each record by the version that was in force at its place in the log. A log begins under the first;
an ActivateRules record in it brings a later one into force.
"""

from typing import Final

from creditfold.ledger.decide import DecideOne, decide_one

#: The version under which a log begins, and the only one there is. Each outcome carries the version that decided it.
RULES: Final = 1

#: Every version that this release has.
RULESETS: Final[dict[int, DecideOne]] = {RULES: decide_one}


class UnknownRulesError(Exception):
    """Rules that this release doesn't have. What they decide can't be known, so nothing may be folded on."""


def known_rules() -> list[int]:
    """Every version of the rules that this release has, the oldest first.

    Example:
        >>> known_rules()
        [1]
    """
    return sorted(RULESETS)


def ruleset(rules: int) -> DecideOne:
    """What a version of the rules decides. Raises UnknownRulesError."""
    if rules not in RULESETS:
        raise UnknownRulesError(rules)
    return RULESETS[rules]
