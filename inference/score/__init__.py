"""Scoring a file: a table in, the same rows with the model's answers out; it goes on after a kill."""
