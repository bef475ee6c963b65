"""What performs the effects of exchanges: blocking threads, an event loop, or libcurl's multi interface."""
