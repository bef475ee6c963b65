"""The HTTP libraries, each behind the same small interface."""
