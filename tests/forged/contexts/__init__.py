"""The forgeries, grouped by what they touch."""

from tests.forged.contexts.beyond import BEYOND, OPEN
from tests.forged.contexts.combined import COMBINED
from tests.forged.contexts.endings import ENDINGS
from tests.forged.contexts.origins import ORIGINS
from tests.forged.contexts.plugins import PLUGINS
from tests.forged.contexts.results import RESULTS
from tests.forged.contexts.reused import REUSED
from tests.forged.contexts.surroundings import SURROUNDINGS
from tests.forged.contexts.tools import TOOLS
from tests.forged.contexts.trees import TREES
from tests.forged.forgery import Forgery

__all__ = ["FORGERIES", "OPEN"]

FORGERIES: tuple[Forgery, ...] = (
    *(*RESULTS, *TREES, *TOOLS, *PLUGINS, *ORIGINS),
    *(*SURROUNDINGS, *ENDINGS, *REUSED, *COMBINED, *BEYOND),
)
