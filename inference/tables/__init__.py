"""Reading tables: CSV, JSONL and Parquet."""
