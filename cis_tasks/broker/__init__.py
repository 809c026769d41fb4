"""Celery on SQS FIFO: what any Celery app needs, knowing nothing of pipelines."""
