"""Runs `creditfold` with a rebuild of many small transactions in processes of its own: a kill finds one open."""

from creditfold.processors import rebuilding, replay

# In the processes that are started too, which import this file under another name.
rebuilding.FEW_RECORDS = 0
replay.CHUNK_RECORDS = 150

if __name__ == "__main__":
    from creditfold.cli.main import main

    main()
