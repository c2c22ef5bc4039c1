"""Writes delivery/webhooks.schema.json: JSON Schemas of the bodies of webhooks, of the models. For `make api`."""

import json
from pathlib import Path
from typing import Any

from creditfold.delivery.payloads import schema_document

FILE = Path(__file__).resolve().parents[1] / "delivery" / "webhooks.schema.json"


def as_text(found: dict[str, Any]) -> str:
    """The document as it is committed."""
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_text(schema_document()), "utf-8")
