"""Takes files of npm packages into the folders that serve them, with licence and hashes. `make vendored`.

Owns the `vendored.json` of each folder: which package and version, what npm vouches for (`integrity`), and the SHA-256
of each file, which a test compares with the files. Without a version it takes the one that is there already, and
refuses a package that isn't the one of then.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Vendored(NamedTuple):
    """A package, the folder that has files of it, and their names in the package and there."""

    package: str
    folder: Path
    files: Mapping[str, str]

    @property
    def record(self) -> Path:
        """Which version is there."""
        return self.folder / "vendored.json"


SWAGGER_UI = {
    "swagger-ui-bundle.js": "swagger-ui-bundle.js",
    "swagger-ui-bundle.js.LICENSE.txt": "swagger-ui-bundle.js.LICENSE.txt",
    "swagger-ui.css": "swagger-ui.css",
    "LICENSE": "swagger-ui.LICENSE.txt",
    "NOTICE": "swagger-ui.NOTICE.txt",
}
HTMX = {"dist/htmx.min.js": "htmx.min.js", "LICENSE": "htmx.LICENSE.txt"}
PACKAGES = (
    Vendored("swagger-ui-dist", ROOT / "api" / "page", SWAGGER_UI),
    Vendored("htmx.org", ROOT / "console" / "static", HTMX),
)


def take(what: Vendored, version: str, integrity: str | None) -> None:
    """Write the files of a version, and what they are.

    Args:
        what: the package.
        version: of the package.
        integrity: that it must have, as npm writes it; None: any.

    Raises:
        SystemExit: it has another.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{what.package}@{version}"]
        name = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
        packed = Path(folder, name).read_bytes()
        found = f"sha512-{base64.b64encode(hashlib.sha512(packed).digest()).decode()}"
        if integrity not in (None, found):
            raise SystemExit(f"{what.package} {version} is {found}, and was {integrity}")
        with tarfile.open(Path(folder, name)) as archive:
            contents = {own: _content(archive, f"package/{theirs}") for theirs, own in what.files.items()}
            licence = json.loads(_content(archive, "package/package.json"))["license"]
    for own, content in contents.items():
        (what.folder / own).write_bytes(content)
    record = {
        "package": what.package,
        "version": version,
        "license": licence,
        "integrity": found,
        "sha256": {own: hashlib.sha256(content).hexdigest() for own, content in sorted(contents.items())},
    }
    what.record.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None, name  # noqa: S101 - A folder has no such name.
    return member.read()


if __name__ == "__main__":
    wanted = dict(argument.rpartition("@")[::2] for argument in sys.argv[1:])
    for one in PACKAGES:
        if one.package in wanted:
            take(one, wanted.pop(one.package), None)
        else:
            known = json.loads(one.record.read_text("utf-8"))
            take(one, known["version"], known["integrity"])
    if wanted:
        raise SystemExit(f"there is no vendored package {', '.join(wanted)}")
