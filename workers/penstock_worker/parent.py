"""What a worker process and whoever started it have agreed on. Imports nothing: a supervisor is to be small."""

from __future__ import annotations

#: Exit status after a defect of ours (sysexits.h: EX_SOFTWARE): the lease ends, and the jobs are rescued.
EXIT_DEFECTIVE = 70
#: Exit status of a worker that ended itself because its model did not return.
EXIT_WEDGED = 75
#: The exit status when a model did not come up (sysexits.h: EX_CONFIG).
EXIT_NOT_LOADED = 78

#: The supervisor passes the write end of its pipe in this variable.
PULSE_FD = "_PENSTOCK_PULSE_FD"
