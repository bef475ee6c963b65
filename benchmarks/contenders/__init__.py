"""What is compared: one module for each family, run as a process in an environment of its own."""
