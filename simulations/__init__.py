"""Everything on one machine: simulated hospitals, engines, real data, comparisons, benchmarks."""
