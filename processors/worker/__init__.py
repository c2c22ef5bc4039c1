"""The worker: folds its partitions for as long as it runs, by Faust."""
