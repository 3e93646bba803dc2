"""Checkpoints: the weights in a container, the network that they belong to, and their migration."""
