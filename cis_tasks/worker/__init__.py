"""What a machine runs beside the tasks: models, batches, health, and how it leaves."""
