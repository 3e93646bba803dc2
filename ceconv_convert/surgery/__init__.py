"""Copy modules, replace them inside a model, and find the network inside its wrappers."""
