"""The published layers: our own implementation, same parameter names and shapes."""
