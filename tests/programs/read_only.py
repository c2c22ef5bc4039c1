"""Runs `creditfold` as on a file system that can't be written: every file or folder that Python is to make is refused.

By an audit hook, since root may write wherever the permissions say no; and with nothing but the null device to write.
"""

import errno
import os
import sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
MAKES = {
    *("os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown"),
    *("shutil.copyfile", "shutil.move", "shutil.rmtree", "sqlite3.connect", "tempfile.mkdtemp", "tempfile.mkstemp"),
}


def refuse(event: str, arguments: tuple[object, ...]) -> None:
    """Raise what the system would for a read-only file system."""
    if event == "open":
        path, _, flags = arguments
        # A number is a file that is open already.
        if not isinstance(flags, int) or not flags & WRITES or isinstance(path, int) or path == os.devnull:
            return
    elif event not in MAKES:
        return
    print(f"refused: {event} {arguments[:1]}", file=sys.stderr)
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))


sys.dont_write_bytecode = True
sys.addaudithook(refuse)

if __name__ == "__main__":
    from creditfold.cli.main import main

    main()
