"""The autoscaler: how many workers each pool has, decided once a second and done.

Comes in: what is seen of the work at the broker (``observe``), the workers' slots in SQL, the settings of the pools
(``terms``). ``policy.scaling`` decides, ``steps`` makes of a decision which slots change (pure), ``daemon`` writes that
under its epoch, and a backend (``backends``) realises the rows. Goes out: rows, and records of what was seen and why
it was decided so.

Unknown is not zero: with the broker or the database away nothing is known, and the fleet stays as it is.
"""
