"""The gates an attempt passes: rate, retry, pacing, rotation. Each is usable on its own."""
