"""Pure decisions: a frozen snapshot with ``now`` in it comes in, a decision goes out.

Nothing here reads a clock, draws a global random number or talks to a server; the shells around do.
"""
