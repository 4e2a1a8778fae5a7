"""Readers: from the files that hospitals have to arrays, one reader per kind of granularity."""
