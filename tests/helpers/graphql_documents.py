"""Documents of GraphQL that tests ask for."""

from collections.abc import Iterable
from typing import Any

from graphql import GraphQLObjectType, get_named_type


def braced(parts: Iterable[str]) -> str:
    """Some parts between braces."""
    return "{" + " ".join(parts) + "}"


def everything(kind: Any) -> str:
    """A selection of all that a type has, down to its leaves."""
    named = get_named_type(kind)
    if not isinstance(named, GraphQLObjectType):
        return ""
    return braced(f"{name}{everything(field.type)}" for name, field in named.fields.items())
