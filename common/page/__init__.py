"""Pages as one HTML file with charts, without scripts or requests: of runs, and of a hospital."""
