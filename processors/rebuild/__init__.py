"""The rebuild of a generation from the log, and the proof of one."""
