"""``python -m cis_tasks`` is ``cis``."""

from cis_tasks.commands.main import main

main()
