"""The verifier: judges an image from outside, in fresh containers without network and within limits.

What the image holds is read without running it; what runs inside is reported through single files that were made
outside; a verdict is computed from them here. `Verifier.verify` goes from the text of the scripts over the image's
files and the import check to the repository's own tests.
"""

from actors.verifier.containers.container import Ended, Limits
from actors.verifier.suite.report import ReportRefused, TestOutcome
from actors.verifier.trial import Verdict
from actors.verifier.verify import Verifier

__all__ = ["Ended", "Limits", "ReportRefused", "TestOutcome", "Verdict", "Verifier"]
