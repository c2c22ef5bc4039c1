"""Takes Swagger UI's files from its npm package into api/page/, with their licence and their hashes. `make vendored`.

Owns `api/page/vendored.json`: which package and version, what npm vouches for (`integrity`), and the SHA-256 of each
file, which a test compares with the files. Without an argument it takes the version that is there already, and refuses
a package that isn't the one of then.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "api" / "page"
PACKAGE = "swagger-ui-dist"
#: Files of the package, and their names here.
FILES = {
    "swagger-ui-bundle.js": "swagger-ui-bundle.js",
    "swagger-ui-bundle.js.LICENSE.txt": "swagger-ui-bundle.js.LICENSE.txt",
    "swagger-ui.css": "swagger-ui.css",
    "LICENSE": "swagger-ui.LICENSE.txt",
    "NOTICE": "swagger-ui.NOTICE.txt",
}


def take(version: str, integrity: str | None) -> None:
    """Write the files of a version, and what they are.

    Args:
        version: of the package.
        integrity: that it must have, as npm writes it; None: any.

    Raises:
        SystemExit: it has another.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{PACKAGE}@{version}"]
        name = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()
        packed = Path(folder, name).read_bytes()
        found = f"sha512-{base64.b64encode(hashlib.sha512(packed).digest()).decode()}"
        if integrity not in (None, found):
            raise SystemExit(f"{PACKAGE} {version} is {found}, and was {integrity}")
        with tarfile.open(Path(folder, name)) as archive:
            contents = {own: _content(archive, f"package/{theirs}") for theirs, own in FILES.items()}
            licence = json.loads(_content(archive, "package/package.json"))["license"]
    for own, content in contents.items():
        (PAGE / own).write_bytes(content)
    record = {
        "package": PACKAGE,
        "version": version,
        "license": licence,
        "integrity": found,
        "sha256": {own: hashlib.sha256(content).hexdigest() for own, content in sorted(contents.items())},
    }
    (PAGE / "vendored.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    assert member is not None, name  # noqa: S101 - A folder has no such name.
    return member.read()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take(sys.argv[1], None)
    else:
        known = json.loads((PAGE / "vendored.json").read_text("utf-8"))
        take(known["version"], known["integrity"])
