"""Compiles the fold's modules when asked to; all else about the project is in pyproject.toml.

Python's own version of each module stays the truth: it is installed beside the compiled one, and both pass the same
tests. See docs/contributing.md.
"""

import os
from pathlib import Path
from typing import Any

from setuptools import setup

ROOT = Path(__file__).parent

#: What a command passes through between the log and PostgreSQL.
COMPILED = (
    *(f"ledger/{path.name}" for path in sorted((ROOT / "ledger").glob("*.py")) if path.stem != "__init__"),
    "processors/chunks.py",
    "projections/chain.py",
    "projections/credit_rows.py",
    "stack/log.py",
)


#: What is there in the compiled core only.
QUICK = ("processors/batches", "processors/plain")


def extensions() -> list[Any]:
    """The compiled modules, if the environment asks for them."""
    if os.environ.get("CREDITFOLD_COMPILE") != "1":
        return []
    from Cython.Build import cythonize
    from mypyc.build import mypycify
    from setuptools import Extension

    # Under .link the modules have their full names.
    paths = [f".link/creditfold/{path}" for path in COMPILED]
    compiled = mypycify(["--config-file", "pyproject.toml", *paths], opt_level="3", group_name="creditfold")
    quick = [Extension(f"creditfold.{path.replace('/', '.')}", [f"{path}.pyx"]) for path in QUICK]
    return [*compiled, *cythonize(quick, build_dir="build")]


if __name__ == "__main__":
    setup(ext_modules=extensions())
