"""Pages for support and operators, under `/console` of the HTTP door.

Owns what a page says in words and pictures, and who is logged in. Implements no rule of its own and has no SQL: it
reads by `projections.queries` and appends by `producers`, with the service, the scopes and the limits of `api`.
"""
