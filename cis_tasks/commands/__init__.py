"""``cis …``: a module for each family of commands. They import what they need when they run."""
