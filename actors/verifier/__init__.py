"""The verifier: judges an image from outside, in fresh containers without network and within limits.

What runs inside an image is reported through single files that were made outside; a verdict is computed from them
here. `Verifier.verify` goes from the import check to the repository's own tests.
"""

from actors.verifier.container import Ended, Limits
from actors.verifier.junit import ReportRefused, TestOutcome
from actors.verifier.verify import Verdict, Verifier

__all__ = ["Ended", "Limits", "ReportRefused", "TestOutcome", "Verdict", "Verifier"]
