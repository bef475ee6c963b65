"""Comparisons with what a user would reach for instead."""
