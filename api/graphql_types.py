"""The GraphQL types: made of the answers of the GET routes, so that both have the same fields and descriptions.

Owns how a type of Python becomes one of GraphQL, and the scalars. Knows no field that reads.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NewType, Union, get_args, get_origin

import strawberry
from strawberry.scalars import JSON
from strawberry.types.scalar import ScalarDefinition

from creditfold.api.answers import Answer, rfc3339
from creditfold.common.instants import moment_of

#: A whole number of an answer. GraphQL's own Int ends at 2^31 - 1.
Long = NewType("Long", int)


def _whole(value: object) -> int:
    """The whole number that a client sent. Raises ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("must be a whole number")
    return value


SCALARS: Mapping[object, ScalarDefinition] = {
    Long: strawberry.scalar(
        name="Long",
        description="A whole number, as JSON has it. One of an account, such as an amount, is at most 2^53 - 1, which "
        "every JSON reader has exactly; sums over all accounts may be larger.",
        serialize=int,
        parse_value=_whole,
    ),
    datetime: strawberry.scalar(
        name="DateTime",
        description="An instant of RFC 3339, in answers in UTC and to the millisecond.",
        serialize=rfc3339,
        parse_value=moment_of,
    ),
}


@cache
def type_of(answer: type[Answer]) -> Any:
    """The GraphQL type of an answer's kind. Its values are answers, or whatever has attributes of these names."""
    fields = answer.model_fields
    namespace: dict[str, Any] = {
        name: strawberry.field(name=field.serialization_alias, description=field.description)
        for name, field in fields.items()
    }
    namespace["__annotations__"] = {name: _of(field.annotation) for name, field in fields.items()}
    made = type(answer.__name__.removesuffix("Answer"), (), namespace)
    return strawberry.type(made, description=answer.__doc__)


def list_of(answer: type[Answer]) -> Any:
    """The GraphQL type of a list of answers of a kind."""
    return list[type_of(answer)]  # type: ignore[misc]


def _of(kind: Any) -> Any:
    """The GraphQL type of an annotation."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (some,) = (one for one in arguments if one is not NoneType)
        return _of(some) | None if NoneType in arguments else _of(some)
    if origin is list:
        return list[_of(arguments[0])]  # type: ignore[misc]
    if origin is dict:
        return JSON
    if origin is Literal:
        return str
    if isinstance(kind, type) and issubclass(kind, Answer):
        return type_of(kind)
    return Long if kind is int else kind
