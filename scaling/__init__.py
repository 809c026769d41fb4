"""How much work waits, and how many machines should do it."""
