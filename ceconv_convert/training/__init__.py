"""Train with the published parameters, by faster forward and backward passes."""
