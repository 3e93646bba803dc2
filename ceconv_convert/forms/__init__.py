"""The converted layers, built from a kernel spec, and the table of forms."""
