"""What needs neither socket nor waiting: the pure parts, on a clock the tests turn."""
