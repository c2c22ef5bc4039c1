"""What several tests need: imported as `helpers.support` and so on, by `pythonpath` in pyproject.toml."""
