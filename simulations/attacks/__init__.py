"""Attacks on what a study releases: what an adversary can learn, measured on this machine."""
