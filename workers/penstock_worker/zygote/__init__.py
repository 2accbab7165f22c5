"""Workers without the seconds that each spends on its imports: forked from a process that has them, the zygote.

In: orders from whoever starts workers, ``penstock.processes.warm``, through the one socket that it was given. Out:
processes that are what the same command line gives, and the exit statuses of those that ended. Linux only.

::

    __main__    the process: what it brings into memory, and its loop
    preload     the imports and the models' mapped weights, looked at one by one
    census      what must not be there when a process is forked: threads, devices, connections
    staleness   whether what was imported is still what lies on the disk
    server      orders, forks, exit statuses
    forking     one fork
    newborn     what a forked process does before anything else, so that it is as a new one
    child       a supervisor's worker, forked from the supervisor, which was forked itself

The zygote maps weights and copies none, opens no database and no broker, and refuses to fork once it could not be
forked from safely. Its end touches nothing of what it forked: each leads a session of its own.
"""
