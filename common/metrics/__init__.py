"""Mergeable statistics of predictions, a module per kind of outcome, and the metrics they give."""
