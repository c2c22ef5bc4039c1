"""What is read of the projection, by what is read. Writes nothing of the fold's."""
