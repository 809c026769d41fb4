"""From a checkout to stacks that stand: what ``cis deploy`` does."""
