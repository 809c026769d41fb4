"""The laptop cloud: an embedded AWS, the real stack on it, and real worker processes."""
