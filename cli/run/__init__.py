"""The commands that run, stop and examine servers and processes."""
