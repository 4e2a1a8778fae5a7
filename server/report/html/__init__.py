"""The report as one HTML page: no script, no request, made from the journal alone."""
