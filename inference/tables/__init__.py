"""Reading tables: CSV, JSON, Parquet and spreadsheets."""
