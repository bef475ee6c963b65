"""Long runs under load: ``make soak``."""
