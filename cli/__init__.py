"""The `creditfold` command: reads arguments, calls the other rooms, prints. Decides nothing."""

import gc

# What is imported makes a hundred thousand objects and hardly a cycle: looking for some takes a sixth of each start.
# It is never put back, since each command imports what it needs when it begins.
gc.set_threshold(50_000)
