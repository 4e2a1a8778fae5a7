"""Experiments of many runs: what privacy costs in use, and which settings are best."""
