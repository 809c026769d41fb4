"""What people do to a running installation: dead letters, replays, sweeps, costs, forgetting."""
