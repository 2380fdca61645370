"""For every test: Hypothesis draws the same examples each time, and none fails for being slow on a busy machine."""

from hypothesis import settings

from lowprec.runtime import allow_amx_with
from lowprec.targets import native

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

allow_amx_with(native().features)  # kernels are called in this process
