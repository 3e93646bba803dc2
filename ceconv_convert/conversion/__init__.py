"""Find the layers of a model or state dict, plan, and convert."""
