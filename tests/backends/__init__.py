"""What is particular to single backends, beyond the contract."""
