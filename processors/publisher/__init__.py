"""The publisher: copies outcomes and dead letters from the projection to their topics."""
