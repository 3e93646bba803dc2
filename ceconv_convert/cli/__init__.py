"""The command line: options, a run, the exit code."""
