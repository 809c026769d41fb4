"""``cis doctor``: what is wrong with an installation, why it matters, how to mend it.

One module for each family of checks; each check is a generator of findings that registers itself.
"""
