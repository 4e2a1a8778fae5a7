"""How fast a round is with real processes, TLS and node authentication, against stock Flower."""
