"""The training of ``ftx export --recover``, in a process of its own: ``python -m`` this, by ``recover``."""

from __future__ import annotations

from ftx.core.child_process import answer_on_stdout
from ftx.exporting.int8.recover import Question, recovered_here

if __name__ == "__main__":
    answer_on_stdout(Question, recovered_here)
