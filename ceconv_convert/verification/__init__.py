"""The float64 reference, and the verdict on a conversion."""
