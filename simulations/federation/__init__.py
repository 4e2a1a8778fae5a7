"""One process per hospital on one machine: real TLS, real keys, real processes, taken down again.

Nothing here is a short cut: folders are made by the commands of hospital and coordinator, and what
answers is what a hospital runs. What a person at a hospital would decide is decided here alone: the
person who types the command owns all of these copies.
"""
