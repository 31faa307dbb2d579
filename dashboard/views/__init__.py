"""One file per page, run by main.py's navigation."""
