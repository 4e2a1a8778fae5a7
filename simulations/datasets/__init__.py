"""The public data sets that can be written as site folders, one module each."""
