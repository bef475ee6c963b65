"""What single backends can do beyond the contract."""
