"""What every room needs and none owns: errors, settings, positions, files, processes. Imports nothing of ours."""
