"""What an image holds, seen from outside, held against the commit, the index and the trusted parent.

An image does not change, and neither do its commit and what the index serves under one version. So what was found once
is kept in the node's cache, under a key of everything that it depends on, this package's own code included, and an
unchanged image is not looked at again. The cache lies on this host, out of reach of every container.
"""

from __future__ import annotations
