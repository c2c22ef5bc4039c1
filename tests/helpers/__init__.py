"""What several tests need: imported as `helpers.support` and so on, by `pythonpath` in pyproject.toml."""

from pathlib import Path

import pytest

# What fails in a helper is shown as what fails in a test.
pytest.register_assert_rewrite(*(f"helpers.{path.stem}" for path in Path(__file__).parent.glob("*.py")))
