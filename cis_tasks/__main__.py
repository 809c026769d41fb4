"""``python -m cis_tasks`` is ``cis``."""

from cis_tasks.cli import main

main()
