"""What other languages need for tests, and which versions are here: a test is skipped where they are missing."""

import os
import re
import shutil
from pathlib import Path

import pytest

from helpers.support import ROOT, ran

#: The oldest Node that the packages of our lock files run on.
LEAST_NODE = (20, 19, 4)
#: Variables by which npm asks the registry for nothing but what it is to install and hasn't got: a third of its
#: processor time.
BRIEF_NPM = {
    **{f"npm_config_{name}": "false" for name in ("audit", "fund", "progress", "update_notifier")},
    "npm_config_prefer_offline": "true",
}


def version_of(*command: str) -> tuple[int, ...] | None:
    """The version that a program prints, None where there is no such program."""
    if shutil.which(command[0]) is None:
        return None
    found = re.search(r"\d+(\.\d+)*", ran(*command).stdout)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def shown(version: tuple[int, ...]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


def need_node() -> None:
    """Skip the test unless Node is here, new enough, and npm with it."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} here: apt-get install nodejs npm")
    version = version_of("node", "--version") or ()
    if version < LEAST_NODE:
        pytest.skip(f"Node {shown(version)} is older than {shown(LEAST_NODE)}, which the packages need")


def npm_installed(folder: Path) -> Path:
    """Copy tests/npm into a folder and install there what its lock names; returns the folder. Skips without Node."""
    need_node()
    shutil.copytree(ROOT / "tests" / "npm", folder, dirs_exist_ok=True)
    installed = ran("npm", "ci", "--ignore-scripts", cwd=folder, env=os.environ | BRIEF_NPM)
    assert installed.returncode == 0, installed.stderr
    return folder
