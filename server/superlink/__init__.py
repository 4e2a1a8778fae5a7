"""The coordinator on a real network: Flower's SuperLink, and a run on it."""
