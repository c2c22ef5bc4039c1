"""The log on disk: an archive is written from a topic and restored into one."""
