"""The published networks: our own implementation, state-dict compatible with their checkpoints."""
