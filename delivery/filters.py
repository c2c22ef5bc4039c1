"""Which events an endpoint gets: by type, by account, by owner. Pure."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from creditfold.common.errors import CreditfoldError
from creditfold.delivery.events import Event
from creditfold.delivery.payloads import TYPES
from creditfold.projections.delivery.endpoints import Endpoint


class UnknownTypeError(CreditfoldError):
    """A type of event that there isn't."""

    exit_code = 2


class Wanted(NamedTuple):
    """What an endpoint wants. No types, and no prefixes, are all.

    `endpoint_id` and `owner` are its own: what happens to an endpoint its owner's others hear.
    """

    endpoint_id: str
    owner: str
    types: Collection[str] = ()
    account_prefixes: Sequence[str] = ()

    @classmethod
    def of(cls, endpoint: Endpoint) -> "Wanted":
        """What an endpoint wants."""
        return cls(endpoint.id, endpoint.owner, frozenset(endpoint.types), endpoint.account_prefixes)

    def takes(self, event: Event) -> bool:
        """Whether the endpoint gets an event. One that is about no account is for endpoints of all accounts."""
        if self.types and event.type not in self.types:
            return False
        if event.owner and (event.owner != self.owner or event.data.get("endpoint") == self.endpoint_id):
            return False
        if not self.account_prefixes or event.owner:
            return True
        return event.account.startswith(tuple(self.account_prefixes)) if event.account else False


def refuse_unknown_types(types: Collection[str]) -> None:
    """Raise UnknownTypeError for a type that there isn't; its remedy names those that there are."""
    unknown = sorted(set(types) - TYPES.keys())
    if unknown:
        names = ", ".join(name[:60] for name in unknown[:5])
        raise UnknownTypeError(f"There is no type of event {names}.", f"The types are: {', '.join(TYPES)}.")
