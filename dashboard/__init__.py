"""The Streamlit dashboard. It draws receipts and needs none of the runtimes.

receipts (find, load) → charts (receipt → figure, pure) → parts (figure → page) → views ← main (navigation, choices)
"""
