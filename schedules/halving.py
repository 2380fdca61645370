"""An epilogue's roundings to bfloat16 by the instruction for them, where the CPU has one.

    y = to bfloat16(x)                              -->  y = instructed bfloat16(x)
    y = to bfloat16(x);  h = upper half(y)          -->  h = instructed half(x)

One instruction takes the place of six, and of eight where the result is stored in two bytes: see `bfloats`.
"""

from dataclasses import replace

from lowprec.schedules.bfloats import has_instruction
from lowprec.schedules.epilogue import Epilogue, Step, Value
from lowprec.schedules.simplifying import needed
from lowprec.targets import Target

ROUNDED, STORED = "to bfloat16", "upper half"
BY_INSTRUCTION = {ROUNDED: "instructed bfloat16", STORED: "instructed half"}


def by_instruction(epilogue: Epilogue, target: Target) -> Epilogue:
    """The epilogue for a target."""
    if not has_instruction(target):
        return epilogue
    steps = [_instructed(step, epilogue.steps) for step in epilogue.steps]
    return replace(epilogue, steps=needed(steps, Value(len(steps))))


def _instructed(step: Step, steps: tuple[Step, ...]) -> Step:
    """A step of those, by the instruction if it is a rounding, or stores one."""
    if step.op == ROUNDED:
        return replace(step, op=BY_INSTRUCTION[ROUNDED])
    match step.arguments:
        case (Value(index),) if step.op == STORED and index and steps[index - 1].op == ROUNDED:
            return Step(op=BY_INSTRUCTION[STORED], arguments=steps[index - 1].arguments)
    return step
