"""What a model makes of a hospital's own held-out patients, at the hospital and for its own eyes.

Nothing of it is sent, logged, or written into a run: it names patients.
"""
