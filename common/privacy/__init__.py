"""Differential privacy: what a study asks for, what that costs, and the mechanisms behind it."""
