"""For every test: Hypothesis draws the same examples each time, none fails for being slow on a busy machine, and a
kernel that is called by TVM itself does not pin this process, and all that it starts, to half the cores."""

import os

from hypothesis import settings

from lowprec.runtime import allow_amx_with
from lowprec.targets import native

os.environ["TVM_BIND_THREADS"] = "0"

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

allow_amx_with(native().features)  # kernels are called in this process
