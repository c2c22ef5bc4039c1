"""Names the modules that are compiled; all else about the project is in pyproject.toml.

Python's own version of each module stays the truth: it is installed along with the compiled one, and both pass the same
tests. See CONTRIBUTING.md. building/creditfold_backend.py decides whether they are compiled.
"""

import os
from pathlib import Path
from typing import Any

from setuptools import setup

ROOT = Path(__file__).parent

#: What a command passes through between the log and PostgreSQL, and what checks its fields on its way there.
COMPILED = (
    *(f"ledger/{path.name}" for path in sorted((ROOT / "ledger").glob("*.py")) if path.stem != "__init__"),
    "processors/fold/chunk.py",
    "processors/fold/draft.py",
    "producers/models/fields.py",
    "projections/store/chain.py",
    "projections/store/rows.py",
    "log/partitioner.py",
    "log/reader.py",
    "log/record.py",
    "schemas/reader.py",
    "schemas/wire.py",
)


#: Modules that exist in the compiled core only.
CYTHON = ("log/batches", "processors/fold/plain", "producers/plain_lines", "schemas/flat_records")

#: Without the libraries that modules import: who compiles needn't have them, and what is of their types is any object.
TRANSLATION = (
    "--config-file=",
    "--namespace-packages",
    "--explicit-package-bases",
    "--ignore-missing-imports",
    "--follow-imports=silent",
    "--no-warn-no-return",
)


def extensions() -> list[Any]:
    """The compiled modules, if building/creditfold_compiler.py asks for them.

    By a variable of its own: metadata, archives and editable installs are made where CREDITFOLD_CORE=compiled, too, and
    would translate all, or put compiled modules among the sources.
    """
    if "CREDITFOLD_EXTENSIONS" not in os.environ:
        return []
    from Cython.Build import cythonize
    from mypyc.build import mypycify
    from setuptools import Extension

    # Under .link, which MYPYPATH names, the modules have their full names.
    paths = [f".link/creditfold/{path}" for path in COMPILED]
    compiled = mypycify([*TRANSLATION, *paths], opt_level="3", debug_level="0", group_name="creditfold")
    cython_modules = [
        Extension(f"creditfold.{path.replace('/', '.')}", [f"{path}.pyx"], extra_compile_args=["-g0"])
        for path in CYTHON
    ]
    return [*compiled, *cythonize(cython_modules, build_dir="build")]


if __name__ == "__main__":
    # The modules' shared part takes half of the time, and no other waits for it.
    setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count() or 1}})
