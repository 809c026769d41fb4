"""What a machine runs beside the tasks: models on devices, batches, figures of how it goes."""
