"""Programs for those who work on logqueue: crash harnesses and benchmarks.  Not installed."""
