"""What AWS Lambda runs: S3 event → are all inputs there? → Celery message."""
