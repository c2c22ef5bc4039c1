"""The commands that append to the log."""
