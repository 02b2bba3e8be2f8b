"""Small projects, one for each layout or habit that honest repositories have."""

from tests.honest.layouts.behaviour import BEHAVIOUR
from tests.honest.layouts.collection import COLLECTION
from tests.honest.layouts.compiled import COMPILED
from tests.honest.layouts.configuration import CONFIGURATION
from tests.honest.layouts.contexts import CONTEXTS
from tests.honest.layouts.packaging import PACKAGING
from tests.honest.layouts.trees import TREES

__all__ = ["LAYOUTS"]

LAYOUTS = [*PACKAGING, *COMPILED, *CONFIGURATION, *COLLECTION, *BEHAVIOUR, *TREES, *CONTEXTS]
