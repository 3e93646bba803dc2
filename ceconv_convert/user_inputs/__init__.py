"""The user's own inputs: images in a folder, or arrays in a file."""
