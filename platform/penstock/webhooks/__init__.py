"""Webhooks: a job's end, told to a URL.

In: delivery rows, which the store writes in the transaction that settles a job, so that a crash loses none. Out: POSTs
signed as Standard Webhooks 1.0.0 says, at least once and in no order, tried on a schedule over three days and then kept
as dead for a replay. Called by the dispatcher, never by a device worker.

Read on: ``deliverer`` (the loop), ``sender`` (one POST), ``guard`` and ``address`` (where it may go), ``slots`` (who
waits for whom), ``signing``, ``listener`` (a receiver for trying out). The schedule is ``penstock.policy.retry``.
"""

from penstock.webhooks.address import check_url
from penstock.webhooks.signing import Signer, load_signer, new_key

__all__ = ["Signer", "check_url", "load_signer", "new_key"]
