"""Files: complete or not there, resumed, checked, and never outside their folder."""
