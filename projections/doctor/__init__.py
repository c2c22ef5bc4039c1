"""What is wrong with the PostgreSQL that holds the projection."""
