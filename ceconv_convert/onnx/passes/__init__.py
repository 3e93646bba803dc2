"""Passes over a graph with symbolic layers: each exact, each its own file."""
