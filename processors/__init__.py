"""The Faust worker that folds the command topic. Knows neither SQL text nor HTTP.

Faust brings the records and the group membership; PostgreSQL holds the offsets. `worker/transport.py` is the seam
between the two, `worker/partitions.py` does the work, several partitions at a time.
"""

from creditfold.common.extras import require

require("read")
