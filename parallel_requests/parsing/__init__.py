"""Where answers are decoded and `parse_func` runs: in place, on a thread, or in processes."""
