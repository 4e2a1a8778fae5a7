"""Measurements of speed: always a ratio against a baseline, in the same run on the same machine."""
