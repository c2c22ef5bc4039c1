"""Writes docs/openapi.json and docs/schema.graphql, which describe what `creditfold serve` answers. For `make api`."""

from pathlib import Path

from creditfold.api.app import create_app
from creditfold.api.graphql_schema import as_text as schema_text
from creditfold.api.openapi import as_text
from creditfold.common.settings import Settings

if __name__ == "__main__":
    Path(__file__).with_name("schema.graphql").write_text(schema_text(), "utf-8")
    Path(__file__).with_name("openapi.json").write_text(as_text(create_app(Settings()).openapi()), "utf-8")
