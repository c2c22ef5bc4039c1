"""Runs `creditfold` with a rebuild of many small transactions in processes of its own: a kill finds one open.

With FORGETFUL in the environment hardly any account is kept in memory from one transaction to the next, or left to be
written at its end.
"""

import os

from creditfold.processors.rebuild import partition as replay
from creditfold.processors.rebuild import steps as rebuilding

# In the processes that are started too, which import this file under another name.
rebuilding.FEW_RECORDS = 0
replay.CHUNK_RECORDS = 75
replay.PIECES = 2
if "FORGETFUL" in os.environ:
    replay.KEPT_ACCOUNTS = 80
    replay.MOST_UNSAVED = 20

if __name__ == "__main__":
    from creditfold.cli.main import main

    main()
