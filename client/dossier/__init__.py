"""The egress dossier of a hospital: what left it, what that cost, what could be done with it."""
