"""Webhooks and alerts: what was decided, delivered to whoever wants to be called, in order and at least once.

The journal is the queue. An endpoint has a cursor in each partition of the log, behind which lines become events that
are sent by HTTP; what fails waits in a table, its account's later events behind it. Whatever can be is a pure module:
events.py (lines to events), identity.py, filters.py, signing.py, retries.py, addresses.py, queue.py (what is sent next,
and how far the cursor is) and alerts.py. feed.py reads, sender.py sends, runner.py delivers to one endpoint,
deliverer.py to all. Holds no SQL: that is projections/delivery's.
"""
