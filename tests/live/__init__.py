"""Servers see what was configured: rate, retries, pacing, deadlines and stops, on real servers."""
