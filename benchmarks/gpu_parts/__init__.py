"""The parts of `gpu.py`, in the order of their value: each measures one thing in a process of its own.

A part is a module with `measure(task)`, which yields its result so far (JSON values), more of it each time,
and `report(result)`, its Markdown.
"""

from . import colorize, decode, environment, feed, learn, memory, paper, pytest_gpu, resume, step

PARTS = {
    "environment": environment,
    "tests": pytest_gpu,
    "step": step,
    "memory": memory,
    "feed": feed,
    "decode": decode,
    "paper": paper,
    "resume": resume,
    "learn": learn,
    "colorize": colorize,
}
