"""Scoring a file: CSV, JSONL or Parquet in, the same rows with the model's answers out; it goes on after a kill."""
