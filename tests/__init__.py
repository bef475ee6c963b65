"""The test suite: real servers on loopback, judged by their own counts."""
