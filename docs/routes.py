"""Writes docs/openapi.json, the description of every HTTP route that `creditfold serve` answers. For `make api`."""

from pathlib import Path

from creditfold.api.app import create_app
from creditfold.api.openapi import as_text
from creditfold.common.settings import Settings

if __name__ == "__main__":
    Path(__file__).with_name("openapi.json").write_text(as_text(create_app(Settings()).openapi()), "utf-8")
