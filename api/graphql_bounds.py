"""What a GraphQL document may cost, known before anything of it is read.

Owns the bounds and how a cost is counted: each field once for each time that it is in the answer, lists by their
`limit` where they have one, and a read for what it asks of PostgreSQL. Knows no field by its meaning.
"""

from collections import Counter
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    GraphQLField,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionNode,
    SelectionSetNode,
    Visitor,
    get_named_type,
    get_nullable_type,
    is_list_type,
    parse,
    visit,
)
from graphql.execution.values import VariableValues, get_argument_values

from creditfold.api.body import MOST_DEPTH as MOST_BRACKETS
from creditfold.api.body import depth_of
from creditfold.api.problems import ProblemError

#: Characters and tokens of a document, fields in each other, and aliases.
MOST_CHARACTERS, MOST_TOKENS, MOST_DEPTH, MOST_ALIASES = 16_384, 1_000, 15, 30
#: Fragments, and how often a name, or any fragment, may be in one place.
MOST_FRAGMENTS, MOST_REPEATS = 20, 5
#: The cost of all its fields.
MOST_COST = 50_000
#: What a field costs that reads.
READ_COST = 250
#: What one costs that reads the whole journal, of which a request has room for one, and one that reads Kafka, of four.
_COSTS = {"trial_balance": 30_000, "log_record": 10_000}
#: What a list is taken to have that has no limit of its own. What is read is bounded too, by the rows that it has.
ASSUMED = 4
#: The same of lists of the schema's description.
_ASSUMED_OF = {"types": 40, "fields": 8, "args": 1}
#: The lists that a page has, which `limit` bounds.
_PAGED = frozenset({"lines", "accounts", "dead_letters", "operations", "rows"})
#: The types whose fields read.
_READING = ("Query", "Account")


def parsed(text: str) -> DocumentNode:
    """The document of a text. Raises ProblemError where it is too large, GraphQLError where it is none."""
    if len(text) > MOST_CHARACTERS or depth_of(text) > MOST_BRACKETS:
        raise _too("large", f"more than {MOST_CHARACTERS:,} characters, or {MOST_BRACKETS} brackets in each other")
    try:
        document = parse(text, max_lexical_tokens=MOST_TOKENS, max_comments=MOST_TOKENS)
    except GraphQLError as error:
        if "contains more than" in error.message:
            raise _too("large", f"more than {MOST_TOKENS:,} tokens") from None
        raise
    visit(document, _Repeats())
    return document


class _Repeats(Visitor):
    """Refuses what makes a document long to check: each field is compared with those of its name, in fragments too."""

    def __init__(self) -> None:
        super().__init__()
        self._fragments = 0

    def enter_fragment_definition(self, *_: Any) -> None:
        self._fragments += 1
        if self._fragments > MOST_FRAGMENTS:
            raise _too("large", f"more than {MOST_FRAGMENTS} fragments")

    def enter_selection_set(self, node: SelectionSetNode, *_: Any) -> None:
        names = Counter(_name_of(one) for one in node.selections)
        if names and max(names.values()) > MOST_REPEATS:
            raise _too("large", f"something more than {MOST_REPEATS} times in one place")


def _name_of(one: SelectionNode) -> str:
    if isinstance(one, FieldNode):
        return (one.alias or one.name).value
    # However many fragments there are: they are compared with each other.
    return "..."


def measured(
    schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode, variables: VariableValues
) -> int:
    """The cost of a valid document's operation.

    Args:
        schema: that it is valid by.
        document: with its fragments.
        operation: of it.
        variables: as the schema coerces them.

    Raises:
        ProblemError: it is beyond a bound.
    """
    root = schema.query_type
    if root is None or operation.operation.value != "query":
        raise ProblemError(
            400, "invalid_query", "Only queries are answered here.", "Append by POST /v1/accounts/{account}/..."
        )
    counter = _Counter(schema, document, variables)
    counter.count(operation.selection_set, root, times=1, depth=1, lines=None)
    return counter.cost


class _Counter:
    def __init__(self, schema: GraphQLSchema, document: DocumentNode, variables: VariableValues) -> None:
        self._schema = schema
        self._variables = variables
        self._fragments = {
            one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)
        }
        self._aliases = 0
        self.cost = 0

    def count(
        self, selected: SelectionSetNode, kind: GraphQLObjectType, *, times: int, depth: int, lines: int | None
    ) -> None:
        """Count what is selected of a type.

        Args:
            selected: its fields and fragments.
            kind: the type.
            times: how often it is in the answer.
            depth: of these fields.
            lines: how long the list of a page is that it has; None: as is assumed.
        """
        if depth > MOST_DEPTH:
            raise _too("deep", f"more than {MOST_DEPTH} fields in each other")
        for one in selected.selections:
            # Each of them, so that fragments of fragments without a field come to an end too.
            self._add(times)
            if isinstance(one, FieldNode):
                self._count_field(one, kind, times, depth, lines)
            elif isinstance(one, FragmentSpreadNode):
                inner = self._fragments[one.name.value].selection_set
                self.count(inner, kind, times=times, depth=depth, lines=lines)
            elif isinstance(one, InlineFragmentNode):
                self.count(one.selection_set, kind, times=times, depth=depth, lines=lines)

    def _count_field(self, node: FieldNode, kind: GraphQLObjectType, times: int, depth: int, lines: int | None) -> None:
        if node.alias is not None:
            self._aliases += 1
            if self._aliases > MOST_ALIASES:
                raise _too("many_aliases", f"more than {MOST_ALIASES} aliases")
        name = node.name.value
        field = self._schema.get_field(kind, name)
        if field is None or name == "__typename":
            return
        if kind.name in _READING and not name.startswith("__"):
            self._add(_COSTS.get(name, READ_COST))
        inner = get_named_type(field.type)
        if node.selection_set is not None and isinstance(inner, GraphQLObjectType):
            limit = self._limit(field, node)
            if _is_list(field.type):
                times *= lines if lines is not None and name in _PAGED else _ASSUMED_OF.get(name, ASSUMED)
            self.count(node.selection_set, inner, times=times, depth=depth + 1, lines=limit)

    def _limit(self, field: GraphQLField, node: FieldNode) -> int | None:
        if "limit" not in field.args:
            return None
        given = get_argument_values(field, node, self._variables).get("limit")
        return max(1, given) if isinstance(given, int) else None

    def _add(self, cost: int) -> None:
        self.cost += cost
        if self.cost > MOST_COST:
            raise _too("costly", f"a cost of more than {MOST_COST:,}")


def _is_list(kind: GraphQLOutputType) -> bool:
    return is_list_type(get_nullable_type(kind))


def _too(what: str, said: str) -> ProblemError:
    return ProblemError(
        400, f"query_too_{what}", f"The query has {said}.", "Ask for less at once; docs/http.md has the bounds."
    )
