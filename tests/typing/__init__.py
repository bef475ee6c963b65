"""What a type checker must see; never run, checked by mypy as part of ``make types``."""
