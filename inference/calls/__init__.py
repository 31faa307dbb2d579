"""What a call of a classifier takes and gives: texts of any kind and their tokens, predictions and timings."""
