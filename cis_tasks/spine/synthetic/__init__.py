"""A made-up person: how the spine moves, what the sensors on it measure, what a camera sees."""
