"""For every test: Hypothesis draws the same examples each time, and none fails for being slow on a busy machine."""

from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")
