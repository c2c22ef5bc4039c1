"""The HTTP door: append, read, preview and follow, from any language. `creditfold serve` runs it.

Public: everything in `__all__`. Appends through `creditfold.producers`, reads through `creditfold.projections`; has no
SQL and no rule of its own. The contract is in docs/http.md and in the OpenAPI document that it serves.
"""

from creditfold.api.app import create_app

__all__ = ["create_app"]
