"""Comparisons with what a user would use instead."""
