"""What a GPU host runs beside the task."""
