"""Decoding responses and running `parse_func`: in place, on a thread, or in processes."""
