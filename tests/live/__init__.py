"""What is configured is what the server sees: rate, retries, pacing, deadlines and stops, on real servers."""
