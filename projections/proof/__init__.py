"""Whether a projection is right: rows, state, double entry."""
