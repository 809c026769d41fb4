"""Image jobs on other ways to work through SQS: the same model, decoder and photograph for all."""
