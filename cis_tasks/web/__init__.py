"""The HTTP tier: images in, answers out; large files go straight to S3."""
