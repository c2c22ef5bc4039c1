"""The commands as a service writes them: models, fields, and the errors that appending raises."""
