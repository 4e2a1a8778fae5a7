"""One hospital: its data, its policy, its door. What leaves it passes `client.egress`, or stays."""
