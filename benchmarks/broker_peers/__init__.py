"""What the broker's benchmarks run: the systems compared, the emulator that counts, the jobs."""
