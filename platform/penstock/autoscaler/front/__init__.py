"""What an autoscaler tells others: how many workers each pool should have, for KEDA, an HPA and Prometheus.

Comes in: standings of pools, from this process' decisions or, where another process leads, from SQL (``follow``), and
bells that submitters ring while a pool has no worker (``ear``). All of it meets on a ``Board``. Goes out: an HTTP page
(``pages``), gauges (``gauges``) and KEDA's gRPC protocol for external scalers (``scaler``, with its messages in
``wire``). ``desk`` has them all. Nothing here writes anything anywhere.

Unknown is not zero: what is not known, or was last known too long ago, is told as an error, which KEDA and an HPA
answer by leaving the workers as they are.
"""
