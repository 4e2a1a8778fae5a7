"""A hospital's two processes, kept alive by a third that reads no patient's data."""
