"""What the hospitals and the coordinator agree on: studies, messages, metrics and models.

Nothing here reads a clock, opens a socket or touches a patient's file; both sides import it, and it
imports neither of them.
"""
