"""Kernels: compute definition and schedule side by side, one family per file."""

if __name__ != "lowprec.schedules":
    raise ImportError(
        "import lowprec.schedules: the folder schedules/ is part of the package lowprec, not a package of its own"
    )
