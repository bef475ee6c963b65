"""What every backend must do; run for each one that is installed."""
