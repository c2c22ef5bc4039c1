"""Reads the files that come with a package of ours, wherever it is installed. Imports nothing but Python's own."""

from importlib import resources


def read_resource(package: str, name: str) -> bytes:
    """Return a file that comes with a package, named by its path from there."""
    return resources.files(package).joinpath(name).read_bytes()
