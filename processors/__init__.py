"""The Faust worker that folds the command topic. Knows neither SQL text nor HTTP.

Faust brings the records and the group membership; PostgreSQL holds the offsets. `transport` is the seam between
the two, `lanes` does the work, one partition beside the other.
"""

from creditfold.common.extras import require

require("read")
