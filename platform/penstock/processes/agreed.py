"""What a process and whoever keeps it running have agreed on. Imports nothing: a supervisor is to be small."""

from __future__ import annotations

#: Exit status after a defect of ours (sysexits.h: EX_SOFTWARE): the lease ends, and the jobs are rescued.
EXIT_DEFECTIVE = 70
#: Exit status of a worker that ended itself because its model did not return.
EXIT_WEDGED = 75
#: The exit status when a model did not come up (sysexits.h: EX_CONFIG).
EXIT_NOT_LOADED = 78

#: What they say to a person.
MEANING = {
    EXIT_DEFECTIVE: "after a defect",
    EXIT_WEDGED: "since a model did not return",
    EXIT_NOT_LOADED: "since a model did not load",
}

#: A supervisor passes its process the write end of a pipe in this variable: what is written into it says that it lives.
PULSE_FD = "_PENSTOCK_PULSE_FD"
#: A supervisor finds the write end of a pipe in this variable, and writes a JSON object a line into it for each death:
#: ``status``, ``lived_s``, ``wait_s``.
DEATHS_FD = "_PENSTOCK_DEATHS_FD"
#: Whoever starts a process for a slot gives it the slot's fence in this variable: without it, another start is meant.
SLOT_FENCE = "_PENSTOCK_SLOT_FENCE"
#: Whoever starts a process that workers are forked from passes it its end of a socket in this variable.
CONTROL_FD = "_PENSTOCK_CONTROL_FD"

#: A process that lived for so long has recovered: its next death counts as the first, seconds.
HEALTHY_AFTER_S = 60.0
#: So many deaths in a row, none after a minute of life, are told as what they are.
LOOP_AFTER = 3
#: First and longest wait before a process that died is started again, seconds.
RESTART_FIRST_S, RESTART_LONGEST_S = 0.5, 30.0


def restart_delay_s(deaths: int) -> float:
    """How long to wait after so many deaths in a row: the first wait, doubled each time up to the longest."""
    return float(min(RESTART_LONGEST_S, RESTART_FIRST_S * 2 ** min(deaths - 1, 10)))
