"""What a type checker has to accept; never run, checked by mypy as part of ``make types``."""
