"""Convolutions and poolings: weights that fit, kernels, strides, dilations and pads that make sense."""

from lowprec.frontend.subject import Subject

AUTO_PADS = ("NOTSET", "SAME_LOWER", "SAME_UPPER", "VALID")
WEIGHTS = {"Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3, "DeformConv": 1}
BIAS = {"Conv": 2, "ConvTranspose": 2, "QLinearConv": 8, "DeformConv": 3}


def check_convolution(subject: Subject) -> None:
    """Weights, groups, bias and window of a convolution of any kind."""
    kind = subject.node.op_type
    data, weights = subject.shape(0), subject.shape(WEIGHTS[kind])
    if len(data) < 3:
        subject.refuse(f"its input is {list(data)}; a convolution needs batch, channels and at least one more axis")
    if len(weights) != len(data):
        subject.refuse(f"its weights are {list(weights)}, of rank {len(weights)}, for an input of rank {len(data)}")
    if min(weights) < 1:
        subject.refuse(f"its weights are {list(weights)}: every extent must be at least 1")
    groups = subject.int("group", 1)
    if groups < 1:
        subject.refuse(f"group is {groups}; it must be at least 1")
    transposed = kind == "ConvTranspose"
    _check_channels(subject, data[1], weights, groups, transposed)
    outputs = weights[1] * groups if transposed else weights[0]
    bias = subject.spec(BIAS[kind]) if kind in BIAS else None
    if bias is not None and bias.shape != (outputs,):
        subject.refuse(f"its bias is {list(bias.shape)}, for {outputs} output channels")
    kernel = subject.ints("kernel_shape")
    if kernel is not None and kernel != weights[2:]:
        subject.refuse(f"kernel_shape is {list(kernel)}, but the weights are {list(weights)}")
    _check_window(subject, data[2:], weights[2:])
    if not transposed:
        _check_reach(subject, data[2:], weights[2:])


def _check_channels(subject: Subject, channels: int, weights: tuple[int, ...], groups: int, transposed: bool) -> None:
    wanted = weights[0] if transposed else weights[1] * groups
    if channels != wanted:
        subject.refuse(
            f"its input has {channels} channels, but the weights {list(weights)} (group {groups}) want {wanted}"
        )
    if weights[0] % groups:
        subject.refuse(f"its weights {list(weights)} cannot be split into {groups} groups")


def check_pooling(subject: Subject) -> None:
    """The window of a pooling."""
    data, kernel = subject.shape(0), subject.ints("kernel_shape")
    if len(data) < 3:
        subject.refuse(f"its input is {list(data)}; a pooling needs batch, channels and at least one more axis")
    if kernel is None:
        if subject.node.op_type == "LpPool" and subject.version < 2:
            return
        subject.refuse("it has no kernel_shape")
    if len(kernel) != len(data) - 2 or min(kernel) < 1:
        subject.refuse(
            f"kernel_shape is {list(kernel)}; one extent of at least 1 for each of {len(data) - 2} axes is needed"
        )
    _check_window(subject, data[2:], kernel)
    reach = _reach(subject, kernel)
    pads = subject.ints("pads") or ()
    if _explicit(subject) and any(pad >= span for pad, span in zip(pads, reach * 2, strict=False)):
        subject.refuse(
            f"pads are {list(pads)}, at least as long as the window {list(reach)}: it would see nothing else"
        )
    if not subject.int("ceil_mode", 0):
        _check_reach(subject, data[2:], kernel)


def _explicit(subject: Subject) -> bool:
    return subject.attributes.get("auto_pad", "NOTSET") in ("NOTSET", "")


def _reach(subject: Subject, kernel: tuple[int, ...]) -> tuple[int, ...]:
    dilations = subject.ints("dilations") or (1,) * len(kernel)
    return tuple((size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True))


def _check_window(subject: Subject, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    rank = len(sizes)
    mode = subject.attributes.get("auto_pad", "NOTSET")
    if mode not in (*AUTO_PADS, ""):
        subject.refuse(f"auto_pad is {mode!r:.40}; it may be {', '.join(AUTO_PADS)}")
    for name, least in (("strides", 1), ("dilations", 1), ("output_padding", 0), ("output_shape", 1)):
        values = subject.ints(name)
        if values and (len(values) != rank or min(values) < least):
            subject.refuse(f"{name} is {list(values)}; {rank} numbers of at least {least} are needed")
    pads = subject.ints("pads")
    if pads and (len(pads) != 2 * rank or min(pads) < 0):
        subject.refuse(f"pads is {list(pads)}; {2 * rank} numbers of at least 0 are needed")
    for name in ("pads", "strides", "dilations", "output_padding"):
        values = subject.ints(name)
        if values and max(values) > 1 << 24:
            subject.refuse(f"{name} is {list(values)}; at most {1 << 24} is accepted")


def _check_reach(subject: Subject, sizes: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    """The window must fit into the padded input at least once."""
    if subject.attributes.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return
    pads = subject.ints("pads") if _explicit(subject) else None
    pads = pads or (0,) * (2 * len(sizes))
    for axis, span in enumerate(_reach(subject, kernel)):
        padded = sizes[axis] + pads[axis] + pads[axis + len(sizes)]
        if span > padded:
            subject.refuse(f"its window spans {span} on spatial axis {axis}, but the padded input has only {padded}")


def check_global_pooling(subject: Subject) -> None:
    """Something to pool over."""
    if len(subject.shape(0)) < 3:
        subject.refuse(f"its input is {list(subject.shape(0))}; it needs batch, channels and at least one more axis")
