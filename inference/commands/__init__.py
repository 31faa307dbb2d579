"""The command line: `python -m inference COMMAND`."""
