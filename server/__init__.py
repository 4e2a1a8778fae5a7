"""The coordinator: rounds, aggregation, checkpoints, the journal and what is read from it."""
