"""The generations of the projection, and the switch from one to another."""
