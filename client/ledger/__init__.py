"""One durable ledger for each data set of a hospital: what was spent on it, by whom, signed."""
