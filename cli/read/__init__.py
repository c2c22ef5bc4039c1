"""The commands that read the projection and the outcomes."""
