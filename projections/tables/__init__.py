"""The tables, views and indexes of the projection, and their meaning."""
