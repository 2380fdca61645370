"""For every test: Hypothesis draws the same examples each time, and none fails for being slow on a busy machine."""

from hypothesis import settings

from lowprec.runtime import allow_amx
from lowprec.targets import native

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

if native().has("amx_tile"):
    allow_amx()  # kernels are called in this process
