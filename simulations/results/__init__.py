"""Results pages: each real study against its anchors, from the data set to a page of numbers."""
