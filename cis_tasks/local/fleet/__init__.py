"""Auto Scaling groups on a laptop: alarms, actions, and a worker process for each instance."""
