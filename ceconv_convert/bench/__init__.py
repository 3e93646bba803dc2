"""Candidates side by side: time, memory, size, multiplications."""
