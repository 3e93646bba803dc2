"""Reading files without running them, and writing files whole or not at all."""
