"""The `creditfold` command: reads arguments, calls the other rooms, prints. Decides nothing."""
